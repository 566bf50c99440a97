"""Recipes that compute: scaled, added and multiplied tensors, and products of low rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from surgery.matching.recipes.recipe import Box, Nested, Recipe
from surgery.matching.recipes.strides import Shape
from surgery.wording import shape_text


@dataclass(frozen=True, slots=True)
class _Elementwise(Nested):
    """Recipes whose elements come together; an axis of one element stands for any."""

    def __post_init__(self) -> None:
        broadcast([part.shape for part in self.inner])

    @property
    def shape(self) -> Shape:
        return broadcast([part.shape for part in self.inner])

    @property
    def moves(self) -> bool:
        return False

    def _cut(self, box: Box) -> Recipe:
        def own(shape: Shape) -> Box:
            behind = box[len(box) - len(shape) :]
            return [(0, 1) if n == 1 else pair for n, pair in zip(shape, behind, strict=True)]

        return self._with_parts([part.cut(own(part.shape)) for part in self.inner])


@dataclass(frozen=True, slots=True)
class Sum(_Elementwise):
    """The sum of its parts, element by element."""


@dataclass(frozen=True, slots=True)
class Product(_Elementwise):
    """The product of its parts, element by element."""


@dataclass(frozen=True, slots=True)
class Scaled(_Elementwise):
    """A recipe times a number."""

    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class LowRank(Nested):
    """``factor * up @ down``, of (out, rank) and (rank, in)."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        up, down = (part.shape for part in self.inner)
        if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
            raise ValueError(f"no matrix product of {shape_text(up)} and {shape_text(down)}")

    @property
    def shape(self) -> Shape:
        up, down = self.inner
        return up.shape[0], down.shape[1]

    @property
    def moves(self) -> bool:
        return False

    def _cut(self, box: Box) -> Recipe:
        (up, down), (rows, columns) = self.inner, box
        rank = (0, up.shape[1])
        return replace(self, inner=(up.cut((rows, rank)), down.cut((rank, columns))))


def broadcast(shapes: Iterable[Shape]) -> Shape:
    """The shape that axes of one element are widened to; ValueError where there is none."""
    found: Shape = ()
    for shape in shapes:
        rank = max(len(found), len(shape))
        ours, theirs = ((1,) * (rank - len(each)) + each for each in (found, shape))
        if any(a != b and 1 not in (a, b) for a, b in zip(ours, theirs, strict=True)):
            raise ValueError(f"{shape_text(found)} and {shape_text(shape)} do not come together")
        found = tuple(b if a == 1 else a for a, b in zip(ours, theirs, strict=True))
    return found
