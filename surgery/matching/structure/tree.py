"""Paths -> the modules above them, each with what it holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping

from surgery.matching.structure.layers import Path
from surgery.matching.structure.words import numbering

#: What a node holds: kinds and how many of each, sorted.
Content = tuple[tuple[int, int], ...]


def nodes_by_content(kinds: Mapping[Path, int]) -> dict[Content, list[Path]]:
    """Every module that holds two layers or more, by its content.

    A module that is all of what another one holds is left out, and the whole is listed as ``()``.
    """
    counts: dict[Path, Counter[int]] = defaultdict(Counter)
    for path, kind in kinds.items():
        for depth in range(len(path)):
            counts[path[:depth]][kind] += 1
    totals = {node: count.total() for node, count in counts.items()}
    found: dict[Content, list[Path]] = defaultdict(list)
    for node, count in counts.items():
        if not node or 1 < totals[node] < totals[node[:-1]]:
            found[tuple(sorted(count.items()))].append(node)
    return found


def inside(path: Path, node: Path) -> bool:
    """Whether ``path`` lies in ``node``."""
    return path[: len(node)] == node


def block_of(path: Path) -> Path:
    """The innermost numbered module above a layer; ``()`` where it is in none."""
    for depth in range(len(path) - 1, 0, -1):
        if numbering(path[depth - 1])[1]:
            return path[:depth]
    return ()


class Numbers:
    """Small numbers for values that are compared often: equal values have one number.

    The numbers depend on the order in which values are met, so they are never an order.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def of(self, value: Hashable) -> int:
        return self._numbers.setdefault(value, len(self._numbers))
