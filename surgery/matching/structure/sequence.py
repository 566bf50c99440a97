"""Where layers stand among others that are decided, as registered and as they run, on both sides.

Order alone proves nothing: a shortcut may come before or behind the layers that it goes around.
But of layers with decided ones between them, each stands in a gap of its own, and two sides of
one network have the same gaps.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.matching.structure.layers import Path

Places = Mapping[Path, int]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Places of layers by path: as registered and as they run; empty where nothing told them."""

    registered: Places = field(default_factory=dict)
    run: Places = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.registered and self.run)


@dataclass(frozen=True, slots=True)
class Anchors:
    """What is decided in one pair of modules: layers, or whole modules, by their paths there."""

    ours: Sequences
    theirs: Sequences
    pairs: tuple[tuple[Sequence[Path], Sequence[Path]], ...]

    def pair(self, sources: Sequence[Path], targets: Sequence[Path]) -> dict[Path, Path]:
        """Sources and targets by their gaps, where both orders give the same pairs."""
        by_code = self._by_gaps(sources, targets, self.ours.registered, self.theirs.registered)
        if not by_code:
            return {}
        by_run = self._by_gaps(sources, targets, self.ours.run, self.theirs.run)
        return by_code if by_code == by_run else {}

    def _by_gaps(
        self, sources: Sequence[Path], targets: Sequence[Path], ours: Places, theirs: Places
    ) -> dict[Path, Path]:
        if not all(s in ours for s in sources) or not all(t in theirs for t in targets):
            return {}
        between = sorted(_ends(self.pairs, ours, theirs))
        if [there for _, there in between] != sorted(there for _, there in between):
            return {}
        mine = _gaps(sources, ours, [here for here, _ in between])
        yours = _gaps(targets, theirs, [there for _, there in between])
        if mine.keys() != yours.keys() or len(mine) < max(len(sources), len(targets)):
            return {}
        return {mine[gap]: yours[gap] for gap in mine}


def _ends(
    pairs: Iterable[tuple[Sequence[Path], Sequence[Path]]], ours: Places, theirs: Places
) -> Iterable[tuple[int, int]]:
    """The first and the last place of every decided pair, on both sides."""
    for sources, targets in pairs:
        mine = [ours[path] for path in sources if path in ours]
        yours = [theirs[path] for path in targets if path in theirs]
        if mine and yours:
            yield min(mine), min(yours)
            yield max(mine), max(yours)


def _gaps(paths: Sequence[Path], places: Places, between: Sequence[int]) -> dict[int, Path]:
    """Paths by the number of decided layers before them; of two in one gap one is lost."""
    return {bisect(between, places[path]): path for path in paths}
