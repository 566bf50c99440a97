"""Two lists of calls, two networks -> the hyper-parameters in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

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

#: The checkpoint's tensors that a call takes.
_Key = tuple[str, ...]
_Texts = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SharedCall:
    """A call of both sides on the same tensors of the checkpoint, with the kinds called before it:
    since the last call that both share, as one may fuse what the other has in parts.
    """

    source: Call
    target: Call
    before_source: _Texts
    before_target: _Texts

    @property
    def place(self) -> str:
        """The shortest name for tensors that are used together: their module where that is one."""
        key = self.target.key
        owners = {_owner(name) for name in key}
        return (owners.pop() if len(owners) == 1 else "") or " + ".join(key)

    @property
    def fed_alike(self) -> bool | None:
        """Whether both are fed the same; None where nothing is known: calls may hold no copies."""
        if self.source.fed is None or self.target.fed is None:
            return None
        return relative_difference(self.source.fed, self.target.fed) <= TOLERANCE


def shared_calls(source: Sequence[Call], target: Sequence[Call]) -> list[SharedCall]:
    """Calls of both sides on the same tensors of the checkpoint, in the target's order."""
    return _shared(source, target)[0]


def differing_settings(
    source: Side, target: Side, ours: Sequence[Call], theirs: Sequence[Call]
) -> tuple[Setting, ...]:
    """Where calls on the same tensors have other arguments, or other functions before them.

    In the target's order. What only one side calls on its tensors (fused projections) is not
    compared; where calls hold copies, what comes before those that are fed the same is not either.
    Then what modules that own mapped tensors say of themselves, where both say it and no call
    has shown it.
    """
    shared, end, last = _shared(ours, theirs)
    found: list[Setting] = []
    for each in shared:
        found += _of_calls(each.place, each.source, each.target)
        if each.before_source != each.before_target and not each.fed_alike:
            before = _list(each.before_source), _list(each.before_target)
            found.append(Setting(each.place, "called before", *before))
    if end != last:
        found.append(Setting("the end", "called last", _list(end), _list(last)))
    shown = {(setting.place, setting.name) for setting in found}
    attributes = _of_modules(source, target)
    return (*found, *(one for one in attributes if (one.place, one.name) not in shown))


def first_difference(source: Sequence[Call], target: Sequence[Call]) -> str:
    """The first call on the same tensors whose results differ, in words; empty where none does.

    The calls must hold copies.
    """
    for each in shared_calls(source, target):
        one, other = each.source.gave, each.target.gave
        # As many numbers on other axes, channels last on one side: nothing that can be compared.
        turned = one.numel() == other.numel() and squeezed(one) != squeezed(other)
        if turned or not (each.source.clean and each.target.clean):
            continue
        result = relative_difference(one, other)
        if result > TOLERANCE:
            fed = {None: "nothing that can be compared", True: "the same", False: "something else"}
            return (
                f"{each.target.name} of {each.place}: it is fed {fed[each.fed_alike]} and answers "
                f"otherwise (by {result:.1e})"
            )
    return ""


def _shared(
    source: Sequence[Call], target: Sequence[Call]
) -> tuple[list[SharedCall], _Texts, _Texts]:
    """The shared calls, and the kinds that either side calls after the last of them."""
    common = {call.key for call in source if call.key} & {call.key for call in target}
    ours, end = _by_key(source, common)
    theirs, last = _by_key(target, common)
    shared = [
        SharedCall(ours[key][0], call, ours[key][1], before)
        for key, (call, before) in theirs.items()
        if key in ours
    ]
    return shared, end, last


def _by_key(
    calls: Sequence[Call], common: Set[_Key]
) -> tuple[Mapping[_Key, tuple[Call, _Texts]], _Texts]:
    """Calls that take mapped tensors which no other call takes, with the kinds called before, and
    the kinds called at the end.
    """
    counts = Counter(call.key for call in calls)
    found: dict[_Key, tuple[Call, _Texts]] = {}
    before: list[str] = []
    for call in calls:
        if not call.key:
            before += _kind_text(call)
        if call.key not in common:
            continue
        if before and before[-1].startswith("pad("):
            call = replace(call, settings=(*call.settings, ("padded before", before.pop()[4:-1])))
        if counts[call.key] == 1:
            found[call.key] = (call, tuple(before))
        before = []
    return found, tuple(before)


def _kind_text(call: Call) -> Iterator[str]:
    """Pooling to one value is left out: as often it is written as a mean; and so is a padding of
    nothing.
    """
    settings = dict(call.settings)
    to_one = call.name.startswith("adaptive_avg_pool") and settings.get("output_size") == "1"
    if not to_one and not (call.name == "pad" and settings.get("pad") == "0"):
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


def _of_modules(source: Side, target: Side) -> Iterator[Setting]:
    """Places are the checkpoint's names, as those of calls are."""
    homes = {spec: name for name, made in source.takings.items() for spec in made.sources}
    places = dict.fromkeys(
        (_owner(spec), _owner(homes[spec]), _owner(name))
        for name, made in target.takings.items()
        for spec in made.sources
        if spec in homes
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
