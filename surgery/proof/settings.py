"""Two lists of calls, two networks -> the hyper-parameters in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

from surgery.proof.proof import TOLERANCE, Setting
from surgery.proof.sides import Side
from surgery.proof.values import relative_difference, squeezed
from surgery.proof.watching import Call, text_of

#: Attributes of modules that shape what they compute. Norms that are written out by hand show
#: their eps in no call.
_ATTRIBUTES = (
    *("eps", "variance_epsilon", "stride", "padding", "dilation", "groups", "kernel_size"),
    *("padding_mode", "num_groups", "num_heads", "scale", "ceil_mode", "negative_slope"),
)

_Texts = tuple[str, ...]


def shared_calls(source: Sequence[Call], target: Sequence[Call]) -> list[tuple[Call, Call]]:
    """Calls of both sides on the same tensors of the checkpoint, in the target's order."""
    return _shared(source, target)[0]


def place_of(call: Call) -> str:
    """The shortest name for tensors that are used together: their module where that is one."""
    owners = {_owner(name) for name in call.key}
    return (owners.pop() if len(owners) == 1 else "") or " + ".join(call.key)


def differences(
    source: Side, target: Side, ours: Sequence[Call], theirs: Sequence[Call]
) -> tuple[tuple[Setting, ...], str]:
    """Where calls on the same tensors have other arguments, or other functions before them; and
    the first whose results differ, in words, empty where none does.

    In the target's order. What only one side calls on its tensors (fused projections) is not
    compared, nor what comes before calls that are fed the same. Then what modules that own mapped
    tensors say of themselves, where both say it and no call has shown it.
    """
    shared, end, last = _shared(ours, theirs)
    found: list[Setting] = []
    for one, other in shared:
        place = place_of(other)
        found += _of_calls(place, one, other)
        if one.before != other.before and not _fed_alike(one, other):
            found.append(Setting(place, "called before", _list(one.before), _list(other.before)))
    if end != last:
        found.append(Setting("the end", "called last", _list(end), _list(last)))
    shown = {(setting.place, setting.name) for setting in found}
    attributes = _of_modules(source, target)
    found += [one for one in attributes if (one.place, one.name) not in shown]
    return tuple(found), next(filter(None, (_answered(*pair) for pair in shared)), "")


def _answered(one: Call, other: Call) -> str:
    """By how much the results differ, in words; empty where they do not, or cannot be compared."""
    result = relative_difference(one.gave, other.gave)
    # As many numbers on other axes, channels last on one side: nothing that can be compared.
    shapes = {squeezed(call.gave) for call in (one, other)}
    turned = one.gave.numel() == other.gave.numel() and len(shapes) > 1
    if result <= TOLERANCE or turned or not (one.clean and other.clean):
        return ""
    fed = "the same" if _fed_alike(one, other) else "something else"
    place = place_of(other)
    return f"{other.name} of {place}: it is fed {fed} and answers otherwise (by {result:.1e})"


def _fed_alike(one: Call, other: Call) -> bool:
    """Whether both are fed the same of what comes of the input."""
    if one.fed is None or other.fed is None:
        return False
    return relative_difference(one.fed, other.fed) <= TOLERANCE


def _shared(
    source: Sequence[Call], target: Sequence[Call]
) -> tuple[list[tuple[Call, Call]], _Texts, _Texts]:
    """The shared calls, and the kinds that either side calls after the last of them."""
    common = {call.key for call in source if call.key} & {call.key for call in target}
    ours, end = _by_key(source, common)
    theirs, last = _by_key(target, common)
    return [(ours[key], call) for key, call in theirs.items() if key in ours], end, last


def _by_key(calls: Sequence[Call], common: Set[_Texts]) -> tuple[Mapping[_Texts, Call], _Texts]:
    """Calls that take mapped tensors which no other call takes, with the kinds called before, and
    the kinds called at the end. One side may fuse what the other has in parts, so those since the
    last call that both share count.
    """
    counts = Counter(call.key for call in calls)
    found: dict[_Texts, Call] = {}
    before: list[str] = []
    for call in calls:
        if not call.key:
            before.append(_text(call))
        if call.key not in common:
            continue
        settings = dict(call.settings)
        if before and before[-1].startswith("pad("):
            settings["padded before"] = before.pop()[4:-1]
        if counts[call.key] == 1:
            found[call.key] = replace(call, settings=settings, before=tuple(before))
        before = []
    return found, tuple(before)


def _text(call: Call) -> str:
    text = ", ".join(f"{name}={value}" for name, value in call.settings.items())
    return f"{call.name}({text})" if text else call.name


def _of_calls(place: str, source: Call, target: Call) -> Iterator[Setting]:
    """A linear layer and a convolution of the same numbers are no difference by themselves."""
    if source.name != target.name:
        if "linear" not in (source.name, target.name):
            yield Setting(place, "function", source.name, target.name)
        return
    for name in {**source.settings, **target.settings}:
        ours, theirs = (call.settings.get(name, "-") for call in (source, target))
        if ours != theirs:
            yield Setting(place, name, ours, theirs)


def _of_modules(source: Side, target: Side) -> Iterator[Setting]:
    """Places are the checkpoint's names, as those of calls are."""
    homes = {s.name: name for name, recipe in source.recipes.items() for s in recipe.sources}
    places = dict.fromkeys(
        (_owner(spec.name), _owner(homes[spec.name]), _owner(name))
        for name, recipe in target.recipes.items()
        for spec in recipe.sources
        if spec.name in homes
    )
    for place, ours, theirs in places:
        one, other = source.model.get_submodule(ours), target.model.get_submodule(theirs)
        for name in _ATTRIBUTES:
            values = [getattr(module, name, None) for module in (one, other)]
            texts = [text_of(value) for value in values]
            plain = all(isinstance(value, int | float | str | tuple) for value in values)
            if plain and texts[0] != texts[1]:
                yield Setting(place or "the network itself", name, *texts)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _list(functions: Sequence[str]) -> str:
    return ", ".join(functions) or "none"
