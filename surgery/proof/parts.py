"""What of a source tensor goes where: rows that a plan separates are moved separately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING

from surgery.matching.recipes.recipe import Recipe, Zeros

if TYPE_CHECKING:
    import torch

#: A tensor is cut evenly into so many parts at most.
_MOST = 96


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a source tensor that has ``total``, and the ``targets`` that take some of them.

    ``axis`` is 0, or -1 of a matrix that is stored (in, out).
    """

    source: str
    axis: int
    start: int
    stop: int
    total: int
    targets: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return (self.start, self.stop) == (0, self.total)

    @property
    def name(self) -> str:
        """``qkv.weight``, ``qkv.weight[0:64]`` or ``qkv.weight[:,0:64]``."""
        rows = f"[{':,' if self.axis else ''}{self.start}:{self.stop}]"
        return self.source + ("" if self.whole else rows)

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """These rows of the source's value, or of its gradient."""
        if self.whole:
            return value
        return value.narrow(self.axis, self.start, self.stop - self.start)


def taken_by(target: str, recipe: Recipe) -> tuple[Part, ...]:
    """The rows that the views of one recipe take."""
    found = []
    for view in recipe.views:
        shape = view.source.shape
        axis, start, stop = view.window or (0, 0, shape[0] if shape else 1)
        total = shape[axis] if shape else 1
        found.append(Part(view.source.name, -1 if axis else 0, start, stop, total, (target,)))
    return tuple(found)


def parts_of(recipes: Mapping[str, Recipe], *, even: bool = False) -> tuple[Part, ...]:
    """All that targets take by their recipes, every source cut wherever one begins or ends.

    Rows between the cuts that nothing takes are a part too: they must have no effect. With
    ``even`` what is joined or separated is cut into parts of one height, so that pieces of
    several heights (grouped-query attention) are made of the same parts wherever they lie.
    """
    taken: dict[str, list[Part]] = {}
    heights: dict[str, int] = {}
    for target, recipe in recipes.items():
        rows = taken_by(target, recipe)
        height = _height(recipe, rows) if even else 0
        for each in rows:
            taken.setdefault(each.source, []).append(each)
            if height:
                heights[each.source] = gcd(heights.get(each.source, 0), each.total, height)
    return tuple(
        part for source, rows in taken.items() for part in _cut(rows, heights.get(source, 0))
    )


def _height(recipe: Recipe, rows: tuple[Part, ...]) -> int:
    """What divides all that is joined or separated; 0 where one source is taken whole."""
    zeros = [part.shape[0] for part in recipe.parts if isinstance(part, Zeros) and part.shape]
    if len(rows) == 1 and rows[0].whole and not zeros:
        return 0
    return gcd(*(end for each in rows for end in (each.start, each.stop)), *zeros)


def _cut(rows: list[Part], height: int) -> Iterator[Part]:
    cutting = [each for each in rows if not each.whole] or rows
    first = cutting[0]
    borders = {0, first.total}
    if all(each.axis == first.axis for each in cutting):  # else nothing is cut
        borders |= {end for each in cutting for end in (each.start, each.stop)}
        if height and first.total <= _MOST * height:
            borders |= {*range(0, first.total, height)}
    for start, stop in pairwise(sorted(borders)):
        targets = (
            target
            for each in rows
            if each.whole or each.axis != first.axis or (each.start < stop and start < each.stop)
            for target in each.targets
        )
        yield replace(first, start=start, stop=stop, targets=tuple(dict.fromkeys(targets)))
