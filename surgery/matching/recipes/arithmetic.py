"""Recipes that compute: scaled, added and multiplied tensors, and products of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from surgery.matching.recipes.recipe import Nested, Recipe
from surgery.matching.recipes.strides import Shape
from surgery.wording import shape_text


@dataclass(frozen=True, slots=True)
class Computed(Nested):
    """What computes values: ``function`` is its name in texts, ``numbers`` are its arguments."""

    function: ClassVar[str]

    @property
    def moves(self) -> bool:
        return False

    @property
    def numbers(self) -> tuple[float, ...]:
        return tuple(getattr(self, each.name) for each in fields(self)[1:])


@dataclass(frozen=True, slots=True)
class _Elementwise(Computed):
    """Recipes whose elements come together; an axis of one element stands for any."""

    def __post_init__(self) -> None:
        broadcast([part.shape for part in self.inner])

    @property
    def shape(self) -> Shape:
        return broadcast([part.shape for part in self.inner])

    def _sliced(self, axis: int, start: int, stop: int) -> Recipe:
        rank = len(self.shape)
        own = [(part, axis - rank + len(part.shape)) for part in self.inner]
        return self.with_parts(
            part if at < 0 or part.shape[at] == 1 else part.slice(at, start, stop)
            for part, at in own
        )


@dataclass(frozen=True, slots=True)
class Sum(_Elementwise):
    """The sum of its parts, element by element."""

    function = "add"


@dataclass(frozen=True, slots=True)
class Product(_Elementwise):
    """The product of its parts, element by element."""

    function = "product"


@dataclass(frozen=True, slots=True)
class Scaled(_Elementwise):
    """A recipe times a number."""

    function = "scale"
    factor: float


@dataclass(frozen=True, slots=True)
class LowRank(Computed):
    """``factor * up @ down``, of (out, rank) and (rank, in)."""

    function = "low_rank"
    factor: float

    def __post_init__(self) -> None:
        up, down = (part.shape for part in self.inner)
        if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
            raise ValueError(f"no matrix product of {shape_text(up)} and {shape_text(down)}")

    @property
    def shape(self) -> Shape:
        up, down = self.inner
        return up.shape[0], down.shape[1]

    def _sliced(self, axis: int, start: int, stop: int) -> Recipe:
        up, down = self.inner
        parts = (up, down.slice(1, start, stop)) if axis else (up.slice(0, start, stop), down)
        return self.with_parts(parts)


#: All that compute by their names, of how many recipes each (None for any number), and how many
#: numbers.
COMPUTED: Mapping[str, tuple[Callable[..., Computed], int | None, int]] = {
    "add": (Sum, None, 0),
    "product": (Product, None, 0),
    "scale": (Scaled, 1, 1),
    "low_rank": (LowRank, 2, 1),
}


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
