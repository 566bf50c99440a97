"""How the values of a target tensor are made of source tensors: a recipe, and its shape.

A target is rows of sources, one below the other, in the target's own shape. Nothing else occurs:
no value is computed, so a recipe is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.specs import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start`` to ``stop`` of a source, or as many rows of zeros where there is no source.

    ``transposed`` says that the source is stored (in, out): its rows are its columns.
    """

    source: TensorSpec | None
    start: int
    stop: int
    transposed: bool = False

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        return self.source is None or (self.start, self.stop) == (
            0,
            rows(self.source.shape, self.transposed),
        )

    def shape(self, target: Shape) -> Shape:
        """(rows, what a row holds); a row of zeros is as long as the target's."""
        if self.source is None:
            return (self.rows, math.prod(target[1:]))
        return (self.rows, self.source.numel // max(rows(self.source.shape, self.transposed), 1))


def rows(shape: Shape, transposed: bool) -> int:
    """The first axis, or the last of a matrix that is stored (in, out); 1 for a scalar."""
    return (shape[-1] if transposed else shape[0]) if shape else 1


@dataclass(frozen=True, slots=True)
class Operation:
    """The pieces from top to bottom; ``transposed`` says that the target is stored (in, out)."""

    pieces: tuple[Piece, ...]
    transposed: bool = False

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        if len(self.pieces) == 1 and self.pieces[0].source:
            return (self.pieces[0].source,)
        return tuple(dict.fromkeys(piece.source for piece in self.pieces if piece.source))

    def is_copy(self, target: Shape) -> bool:
        """Whether the target is one source as it is."""
        if self.transposed or len(self.pieces) > 1:
            return False
        (piece,) = self.pieces
        source = piece.source
        return (
            source is not None and source.shape == target and piece.whole and not piece.transposed
        )

    def name(self, target: Shape) -> str:
        """The operation in words: ``copy``, ``reshape``, ``transpose``, ``concatenate rows``,
        ``slice rows``, ``zero third``; ``transpose, slice rows`` where it is more than one.
        """
        turned = self.transposed or any(piece.transposed for piece in self.pieces)
        words = [
            *(["transpose"] if turned else []),
            *(["slice rows"] if not all(piece.whole for piece in self.pieces) else []),
            *(["concatenate rows"] if len(self.pieces) > 1 else []),
            *(["zero third"] if any(piece.source is None for piece in self.pieces) else []),
        ]
        if words:
            return ", ".join(words)
        return "copy" if self.sources[0].shape == target else "reshape"

    def fits(self, target: Shape) -> bool:
        """Whether the pieces fill the target: its rows, and in each row its length."""
        if self.is_copy(target):
            return True
        wanted = tuple(reversed(target)) if self.transposed else target
        per_row = math.prod(wanted[1:])
        if not wanted:
            return all(math.prod(piece.shape(wanted)) == 1 for piece in self.pieces)
        if len(self.pieces) == 1:
            return math.prod(self.pieces[0].shape(wanted)) == math.prod(target)
        shapes = [piece.shape(wanted) for piece in self.pieces]
        return sum(shape[0] for shape in shapes) == wanted[0] and {s[1] for s in shapes} == {
            per_row
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON values, sources by their number in :attr:`sources`."""
        at = {source: number for number, source in enumerate(self.sources)}
        pieces = [
            [at[p.source] if p.source else None, p.start, p.stop, p.transposed] for p in self.pieces
        ]
        return {"pieces": pieces, "transposed": self.transposed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], sources: Sequence[Sequence[Any]]) -> Operation:
        """The inverse of :meth:`to_dict`; ``sources`` are the rows of its sources' specs."""
        specs = [TensorSpec.from_row(row) for row in sources]
        pieces = tuple(
            Piece(None if at is None else specs[at], start, stop, transposed)
            for at, start, stop, transposed in data["pieces"]
        )
        return cls(pieces, data["transposed"])
