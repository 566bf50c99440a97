"""What of a source tensor goes where: rows that a plan separates are moved separately."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING

from surgery.proof.taking import Rows, Taking

if TYPE_CHECKING:
    import torch

#: A tensor is cut evenly into so many parts at most.
_MOST = 96


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a source tensor, or all of it where ``stop`` is None.

    ``axis`` is 0, or -1 of a matrix that is stored (in, out). ``targets`` take rows of it.
    """

    source: str
    targets: tuple[str, ...]
    axis: int = 0
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """``qkv.weight``, ``qkv.weight[0:64]`` or ``qkv.weight[:,0:64]``."""
        return self.source + ("" if self.stop is None else _rows_text(self))

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """These rows of the source's value, or of its gradient."""
        if self.stop is None:
            return value
        return value.narrow(self.axis, self.start, self.stop - self.start)


def parts_of(takings: Iterable[Taking], *, even: bool = False) -> tuple[Part, ...]:
    """All that is taken, every source cut wherever one of its targets begins or ends.

    Rows between the cuts that nothing takes are a part too: they must have no effect. With
    ``even`` what is joined or separated is cut into parts of one height, so that pieces of
    several heights (grouped-query attention) are made of the same parts wherever they lie.
    """
    taken: dict[str, list[tuple[str, Rows | None]]] = {}
    heights: dict[str, int] = {}
    for made in takings:
        for source in () if made.rows else made.sources:
            taken.setdefault(source, []).append((made.target.name, None))
        for rows in made.rows:
            taken.setdefault(rows.source, []).append((made.target.name, rows))
            if even and made.height:
                before = heights.get(rows.source, 0)
                heights[rows.source] = gcd(before, rows.total, made.height)
    return tuple(
        part for source, rows in taken.items() for part in _cut(source, rows, heights.get(source))
    )


def by_part(parts: Iterable[Part], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values by the names of parts, those of sources that are there."""
    return {part.name: part.of(values[part.source]) for part in parts if part.source in values}


def names_taken(made: Taking) -> tuple[str, ...]:
    """What is taken, as :attr:`Part.name` says it."""
    if not made.rows:
        return made.sources
    names = (rows.source + ("" if rows.whole else _rows_text(rows)) for rows in made.rows)
    return tuple(dict.fromkeys(names))


def _cut(source: str, taken: list[tuple[str, Rows | None]], height: int | None) -> Iterator[Part]:
    everyone = tuple(dict.fromkeys(target for target, _ in taken))
    cut = [rows for _, rows in taken if rows and (height or not rows.whole)]
    axes = {rows.axis for rows in cut}
    borders: list[int] = []
    if len(axes) == 1:  # else nothing is cut, or along both axes of a matrix
        total = cut[0].total
        ends = {0, total, *(end for rows in cut for end in (rows.start, rows.stop))}
        if height and total <= _MOST * height:
            ends |= {*range(0, total, height)}
        borders = sorted(ends)
    if len(borders) <= 2:
        yield Part(source, everyone)
        return
    for start, stop in pairwise(borders):
        targets = (
            target
            for target, rows in taken
            if rows is None or rows.whole or (rows.start < stop and start < rows.stop)
        )
        yield Part(source, tuple(dict.fromkeys(targets)), cut[0].axis, start, stop)


def _rows_text(rows: Rows | Part) -> str:
    return f"[{':,' if rows.axis else ''}{rows.start}:{rows.stop}]"
