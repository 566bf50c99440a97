"""Layers of the target brought together with other layers of the source."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgery.errors import SurgeryError, did_you_mean
from surgery.matching.matches import Match, Matches
from surgery.patterns import Subject, matches
from surgery.transfers.resize.depth import REFERENCES, layers_from
from surgery.transfers.resize.options import Resize
from surgery.transfers.step import Method
from surgery.wrappers import unwrap_name


@dataclass(frozen=True, slots=True)
class Restacked:
    """Matches in which layers meet as was asked for; ``moved`` are by target name those that meet
    another layer than their own name's. ``left_out`` are names of the source whose layer no layer
    of the target was given.
    """

    matches: Matches
    moved: Mapping[str, Method] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


def restack(
    options: Sequence[Resize], found: Matches, sources: Collection[str], targets: Iterable[str]
) -> Restacked:
    """Give the target's numbered layers those of the source that ``options`` choose.

    ``sources`` are names after the mapping's lines. Raises SurgeryError where a pattern names no
    numbered layers of the target, or the source has none there.
    """
    targets = list(targets)
    by_target, moved = dict(found.by_target), {}
    left_out: set[str] = set()
    for option in options:
        for path in _stacks(option, targets):
            source_path = _source_path(path, found, targets)
            stack = _Stack(option, path, source_path, sources, targets, found)
            left_out |= stack.left_out()
            for target, match in stack.pairs():
                by_target.pop(target, None)
                if match:
                    by_target[target] = match
                    moved[target] = Method("depth", REFERENCES[stack.how], named=True)
    return Restacked(replace(found, by_target=by_target), moved, frozenset(left_out))


def _stacks(option: Resize, targets: Iterable[str]) -> list[str]:
    """The paths of numbered layers that are meant; of nested ones the outermost."""
    paths = dict.fromkeys(path for name in targets for path in _paths(name))
    chosen = [path for path in paths if _is_meant(option, path)]
    if not chosen:
        near = did_you_mean(str(option.selector), paths)
        raise SurgeryError(
            f"resize {option.text!r} fits nothing; nothing was changed",
            [f"the target has no numbered layers in {option.selector}{near}"],
        )
    return [path for path in chosen if not any(path.startswith(f"{up}.") for up in chosen)]


def _paths(name: str) -> Iterator[str]:
    """Every path in ``name`` that a number follows."""
    segments = name.split(".")
    for at, segment in enumerate(segments[1:-1], start=1):
        if segment.isdecimal():
            yield ".".join(segments[:at])


def _is_meant(option: Resize, path: str) -> bool:
    assert option.selector is not None
    return matches(
        option.selector, Subject((unwrap_name(path), path), (), frozenset(), frozenset())
    )


def _source_path(path: str, found: Matches, targets: Iterable[str]) -> str:
    """Where the source has these layers, as some match below the target's shows."""
    for target in targets:
        match = found.by_target.get(target)
        if match and target.startswith(f"{path}."):
            below = target.removeprefix(path)
            if match.source.endswith(below):
                return match.source.removesuffix(below)
    raise SurgeryError(
        f"depth: the source has no numbered layers that match the target's {path}; nothing was "
        "changed",
        ["rename them first (--mapping), so that the first layers meet"],
    )


@dataclass(frozen=True, slots=True)
class _Stack:
    """The numbered layers below one path, on both sides."""

    option: Resize
    path: str
    source_path: str
    sources: Collection[str]
    targets: Sequence[str]
    found: Matches

    @property
    def how(self) -> str:
        return str(self.option.settings.get("how", "uniform"))

    def given(self) -> dict[int, int]:
        """The number of the source's layer, by the number of the target's that is given it."""
        old = _layers(self.source_path, self.sources)
        new = _layers(self.path, self.targets)
        chosen = layers_from(self.how, len(old), len(new))
        return {layer: old[index] for layer, index in zip(new, chosen, strict=True)}

    def left_out(self) -> set[str]:
        """The source's tensors in layers that no layer of the target is given."""
        used = {*self.given().values(), None}
        return {name for name in self.sources if _split(self.source_path, name)[0] not in used}

    def pairs(self) -> Iterator[tuple[str, Match | None]]:
        """Every target tensor whose layer is given another one, with its new match."""
        given, old = self.given(), _layers(self.source_path, self.sources)
        how = f"{self.how}, {len(old)} layers to {len(given)}"
        for target in self.targets:
            layer, rest = _split(self.path, target)
            if layer is not None and given[layer] != layer:
                yield target, self._match(target, given[layer], rest, how)

    def _match(self, target: str, number: int, rest: str, how: str) -> Match | None:
        """What the source's layer of that number gives, by its name or by a recipe."""
        source, via = f"{self.source_path}.{number}.{rest}", f"{how}, layer {number} of the source"
        if source in self.sources:
            return Match(target, source, via, tier="lines")
        made = self.found.by_target.get(f"{self.path}.{number}.{rest}")
        if made is None or made.recipe is None:
            return None
        return replace(made, target=target, via=f"{via}, {made.via}")


def _layers(path: str, names: Iterable[str]) -> list[int]:
    """The numbers of the layers below ``path``, in order."""
    return sorted({layer for name in names if (layer := _split(path, name)[0]) is not None})


def _split(path: str, name: str) -> tuple[int | None, str]:
    """(layer, rest) of a name below ``path``; no layer where it is none of these."""
    if not name.startswith(f"{path}."):
        return None, ""
    number, _, rest = name[len(path) + 1 :].partition(".")
    return (int(number), rest) if number.isdecimal() and rest else (None, "")
