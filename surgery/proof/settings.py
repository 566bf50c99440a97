"""Two lists of calls, two networks -> the hyper-parameters in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.proof.proof import TOLERANCE, Setting
from surgery.proof.values import squeezed
from surgery.proof.watching import Call

if TYPE_CHECKING:
    from surgery.proof.running import Side

#: Attributes of modules that shape what they compute. Norms that are written out by hand show
#: their eps in no call.
_ATTRIBUTES = (
    *("eps", "variance_epsilon", "stride", "padding", "dilation", "groups", "kernel_size"),
    *("padding_mode", "num_groups", "num_heads", "scale", "ceil_mode", "negative_slope"),
)

Key = tuple[str, ...]
Keyed = Mapping[Key, tuple[Call, tuple[str, ...]]]


def differing_settings(source: Sequence[Call], target: Sequence[Call]) -> tuple[Setting, ...]:
    """Where calls on the same tensors have other arguments, or other functions before them.

    In the target's order. What only one side calls on its tensors (fused projections) is not
    compared; where calls hold copies, what comes before those that are fed the same is not either.
    """
    common = _common(source, target)
    ours, theirs = _by_key(source, common), _by_key(target, common)
    found: list[Setting] = []
    for key, (call, before) in theirs.items():
        if key not in ours:
            continue
        other, before_other = ours[key]
        place = place_of(key)
        found += _of_calls(place, other, call)
        if before_other != before and not fed_alike(other, call):
            found.append(Setting(place, "called before", _list(before_other), _list(before)))
    if (end := _after(source, common)) != (last := _after(target, common)):
        found.append(Setting("the end", "called last", _list(end), _list(last)))
    return tuple(found)


def differing_attributes(source: Side, target: Side) -> tuple[Setting, ...]:
    """What modules that own mapped tensors say of themselves, where both say it.

    Places are the checkpoint's names, as those of :func:`differing_settings` are.
    """
    owners = {spec.name: name for name, step in source.steps.items() for spec in step.sources}
    pairs = dict.fromkeys(
        (_owner(spec.name), _owner(owners[spec.name]), _owner(name))
        for name, step in target.steps.items()
        for spec in step.sources
        if spec.name in owners
    )
    return tuple(
        Setting(place or "the network itself", name, ours_text, theirs_text)
        for place, ours, theirs in pairs
        for name, ours_text, theirs_text in _attributes(source, ours, target, theirs)
    )


def merged(calls: Sequence[Setting], attributes: Sequence[Setting]) -> tuple[Setting, ...]:
    """Both, but what a call has shown is not said again by its module."""
    said = {(setting.place, setting.name) for setting in calls}
    return (*calls, *(s for s in attributes if (s.place, s.name) not in said))


def first_difference(source: Sequence[Call], target: Sequence[Call]) -> str:
    """The first call on the same tensors whose results differ, in words; empty where none does.

    The calls must hold copies.
    """
    from surgery.proof.comparison import relative_difference

    for other, call in shared_calls(source, target):
        if not (call.clean and other.clean) or _laid_out_otherwise(other, call):
            continue
        result = relative_difference(other.gave, call.gave)
        if result <= TOLERANCE:
            continue
        fed = _fed_text(other, call)
        return f"{call.name} of {place_of(call.key)}: {fed} and answers otherwise (by {result:.1e})"
    return ""


def fed_alike(source: Call, target: Call) -> bool:
    """Whether both are known to be fed the same; of calls without copies nothing is known."""
    from surgery.proof.comparison import relative_difference

    if source.fed is None or target.fed is None:
        return False
    return relative_difference(source.fed, target.fed) <= TOLERANCE


def _fed_text(source: Call, target: Call) -> str:
    if source.fed is None or target.fed is None:
        return "it is fed nothing that can be compared"
    return f"it is fed {'the same' if fed_alike(source, target) else 'something else'}"


def _laid_out_otherwise(source: Call, target: Call) -> bool:
    """As many numbers on other axes, channels last on one side: nothing that can be compared."""
    return source.gave.numel() == target.gave.numel() and squeezed(source.gave) != squeezed(
        target.gave
    )


def shared_calls(source: Sequence[Call], target: Sequence[Call]) -> list[tuple[Call, Call]]:
    """Calls of both sides on the same tensors of the checkpoint, in the target's order."""
    common = _common(source, target)
    ours, theirs = _by_key(source, common), _by_key(target, common)
    return [(ours[key][0], call) for key, (call, _) in theirs.items() if key in ours]


def place_of(key: Sequence[str]) -> str:
    """The shortest name for tensors that are used together: their module where that is one."""
    owners = {_owner(name) for name in key}
    if len(owners) == 1 and (owner := next(iter(owners))):
        return owner
    return " + ".join(key)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _by_key(calls: Sequence[Call], common: Set[Key]) -> Keyed:
    """Calls that take mapped tensors which no other call takes, and the kinds called before:
    since the last call that is common to both sides, as one may fuse what the other has apart.
    """
    counts = Counter(call.key for call in calls)
    found: dict[Key, tuple[Call, tuple[str, ...]]] = {}
    before: list[str] = []
    for call in calls:
        if not call.key:
            before += _told(call)
        if call.key not in common:
            continue
        if before and before[-1].startswith("pad("):
            call = replace(call, settings=(*call.settings, ("padded before", before.pop()[4:-1])))
        if counts[call.key] == 1:
            found[call.key] = (call, tuple(before))
        before = []
    return found


def _common(source: Sequence[Call], target: Sequence[Call]) -> Set[Key]:
    return {call.key for call in source if call.key} & {call.key for call in target}


def _after(calls: Sequence[Call], common: Set[Key]) -> tuple[str, ...]:
    after: list[str] = []
    for call in calls:
        if call.key in common:
            after = []
        elif not call.key:
            after += _told(call)
    return tuple(after)


def _told(call: Call) -> Iterator[str]:
    """Pooling to one value is left out: as often it is written as a mean; and so is a padding of
    nothing.
    """
    settings = dict(call.settings)
    if call.name.startswith("adaptive_avg_pool") and settings.get("output_size") == "1":
        return
    if call.name == "pad" and settings.get("pad") == "0":
        return
    text = ", ".join(f"{name}={value}" for name, value in call.settings)
    yield f"{call.name}({text})" if text else call.name


def _of_calls(place: str, source: Call, target: Call) -> Iterator[Setting]:
    if source.name != target.name:
        if not (_is_matrix(source) and _is_matrix(target)):
            yield Setting(place, "function", source.name, target.name)
        return
    ours, theirs = dict(source.settings), dict(target.settings)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            yield Setting(place, name, ours.get(name, "-"), theirs.get(name, "-"))


def _is_matrix(call: Call) -> bool:
    """Whether it does what a linear layer does: a convolution that goes by single steps, with no
    padding. On tensors of the same numbers its kernel is then as good as a matrix.
    """
    plain = {"stride": "1", "padding": "0", "dilation": "1", "groups": "1"}
    return call.name == "linear" or (
        call.name in ("conv1d", "conv2d", "conv3d") and dict(call.settings) == plain
    )


def _list(functions: Sequence[str]) -> str:
    return ", ".join(functions) or "none"


def _attributes(
    source: Side, ours: str, target: Side, theirs: str
) -> Iterator[tuple[str, str, str]]:
    from surgery.proof.watching import text_of

    one, other = source.model.get_submodule(ours), target.model.get_submodule(theirs)
    for name in _ATTRIBUTES:
        if not (hasattr(one, name) and hasattr(other, name)):
            continue
        texts = [text_of(getattr(module, name)) for module in (one, other)]
        plain = all(isinstance(getattr(m, name), int | float | str | tuple) for m in (one, other))
        if plain and texts[0] != texts[1]:
            yield name, texts[0], texts[1]
