"""Paths -> the modules above them, each with what it holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping

from surgery.transfers.structure.layers import Path

#: What a node holds: kinds and how many of each, sorted.
Content = tuple[tuple[int, int], ...]


def nodes_by_content(kinds: Mapping[Path, int]) -> dict[Content, list[Path]]:
    """Every module that holds two layers or more, by its content.

    Of a module inside a module that holds nothing else only the inner one is listed; the whole
    is listed as ``()``.
    """
    counts: dict[Path, Counter[int]] = defaultdict(Counter)
    for path, kind in kinds.items():
        for depth in range(len(path)):
            counts[path[:depth]][kind] += 1
    totals = {node: count.total() for node, count in counts.items()}
    whole = totals.get((), 0)
    outer = {node[:-1] for node, total in totals.items() if node and totals[node[:-1]] == total}
    found: dict[Content, list[Path]] = defaultdict(list)
    for node, count in counts.items():
        inner = node not in outer and totals[node] not in (1, whole)
        if inner or node == ():
            found[tuple(sorted(count.items()))].append(node)
    return found


def inside(path: Path, node: Path) -> bool:
    """Whether ``path`` lies in ``node``."""
    return path[: len(node)] == node


class Numbers:
    """Small numbers for values that are compared often: equal values have one number.

    The numbers depend on the order in which values are met, so they are never an order.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def of(self, value: Hashable) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    def all_of(self, values: Iterable[Hashable]) -> list[int]:
        return [self.of(value) for value in values]
