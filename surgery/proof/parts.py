"""What of a source tensor goes where: rows that a plan takes apart are moved apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING

from surgery.matching.operations import Piece, rows
from surgery.transfers.plan import Assemble, KeepInit, Step

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
        return self.source + _rows_text(self.axis, self.start, self.stop)

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """These rows of the source's value, or of its gradient."""
        if self.stop is None:
            return value
        return value.narrow(self.axis, self.start, self.stop - self.start)


def parts_of(steps: Iterable[Step], *, even: bool = False) -> tuple[Part, ...]:
    """All that the steps take, every source cut wherever one of its targets begins or ends.

    Rows between the cuts that nothing takes are a part too: they must have no effect. With
    ``even`` what is joined or taken apart is cut into parts of one height, so that pieces of
    several heights (grouped-query attention) are made of the same parts wherever they lie.
    """
    steps = tuple(steps)
    taken: dict[str, list[tuple[str, Piece | None]]] = {}
    for step in steps:
        for source, piece in _pieces(step):
            taken.setdefault(source, []).append((step.target.name, piece))
    heights = _heights(steps) if even else {}
    return tuple(part for source, pieces in taken.items() for part in _cut(source, pieces, heights))


def by_part(parts: Iterable[Part], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values by the names of parts, those of sources that are there."""
    return {part.name: part.of(values[part.source]) for part in parts if part.source in values}


def names_taken(step: Step) -> tuple[str, ...]:
    """What a step takes, as :attr:`Part.name` says it."""
    names = (
        source if piece is None or piece.whole else source + _rows_text(*_interval(piece))
        for source, piece in _pieces(step)
    )
    return tuple(dict.fromkeys(names))


def _pieces(step: Step) -> Iterator[tuple[str, Piece | None]]:
    """Source names, and which rows where they are not simply all."""
    if isinstance(step, Assemble):
        for piece in step.operation.pieces:
            if piece.source:
                yield piece.source.name, piece
    elif not isinstance(step, KeepInit):
        yield step.source.name, None


def _heights(steps: Iterable[Step]) -> dict[str, int]:
    """By source the largest height that divides whatever its rows are joined with or cut from."""
    heights: dict[str, int] = {}
    for step in steps:
        pieces = step.operation.pieces if isinstance(step, Assemble) else ()
        if len(pieces) == 1 and pieces[0].whole:
            continue
        ends = [end for piece in pieces for end in (piece.start, piece.stop)]
        for piece in pieces:
            if piece.source:
                total = rows(piece.source.shape, piece.transposed)
                before = heights.get(piece.source.name, 0)
                heights[piece.source.name] = gcd(before, total, *ends)
    return heights


def _cut(
    source: str, pieces: list[tuple[str, Piece | None]], heights: Mapping[str, int]
) -> Iterator[Part]:
    everyone = tuple(dict.fromkeys(target for target, _ in pieces))
    height = heights.get(source, 0)
    cut = [piece for _, piece in pieces if piece and (height or not piece.whole)]
    axes = {_interval(piece)[0] for piece in cut}
    if len(axes) != 1:  # nothing is cut, or along both axes of a matrix
        yield Part(source, everyone)
        return
    axis, spec = axes.pop(), cut[0].source
    assert spec is not None
    ends = {0, spec.shape[axis], *(end for piece in cut for end in (piece.start, piece.stop))}
    if height and spec.shape[axis] <= _MOST * height:
        ends |= {*range(0, spec.shape[axis], height)}
    if (borders := sorted(ends)) == [0, spec.shape[axis]]:
        yield Part(source, everyone)
        return
    for start, stop in pairwise(borders):
        targets = (
            target
            for target, piece in pieces
            if piece is None or piece.whole or (piece.start < stop and start < piece.stop)
        )
        yield Part(source, tuple(dict.fromkeys(targets)), axis, start, stop)


def _interval(piece: Piece) -> tuple[int, int, int]:
    return (-1 if piece.transposed else 0, piece.start, piece.stop)


def _rows_text(axis: int, start: int, stop: int | None) -> str:
    if stop is None:
        return ""
    return f"[:,{start}:{stop}]" if axis else f"[{start}:{stop}]"
