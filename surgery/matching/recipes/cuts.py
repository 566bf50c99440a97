"""What of its sources a recipe needs: the part that fills a box of the target, and, where values
are only moved, the ranges of elements in their order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from surgery.checkpoint.places import contiguous_strides
from surgery.matching.recipes import strides
from surgery.matching.recipes.arithmetic import Computed, LowRank
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros, join, strided
from surgery.matching.recipes.strides import Box, Shape, length
from surgery.specs import TensorSpec
from surgery.wording import shape_text

#: A source or None for zeros, the first of its elements, and how many.
Run = tuple[TensorSpec | None, int, int]


def cut(recipe: Recipe, box: Box) -> Recipe:
    """The values in a box of the shape, of the parts that reach into it alone."""
    pairs = tuple(zip(box, recipe.shape, strict=True))
    if not all(0 <= start <= stop <= size for (start, stop), size in pairs):
        raise ValueError(f"{tuple(box)} is no box of {shape_text(recipe.shape)}")
    sizes = tuple(stop - start for start, stop in box)
    if sizes == recipe.shape:
        return recipe
    if 0 in sizes:
        return Zeros(sizes)
    match recipe:
        case View():
            return _cut_view(recipe, box)
        case Joined():
            return _cut_joined(recipe, box)
        case LowRank(inner=(up, down), factor=factor):
            rank, (rows, columns) = (0, up.shape[1]), box
            return LowRank((cut(up, (rows, rank)), cut(down, (rank, columns))), factor)
        case Computed(inner=inner):
            return recipe.with_parts([cut(part, _own(box, part.shape)) for part in inner])
    return Zeros(sizes)


def _own(box: Box, shape: Shape) -> Box:
    """The box in a shape that is widened to the whole one."""
    behind = box[len(box) - len(shape) :]
    return [(0, 1) if n == 1 else pair for n, pair in zip(shape, behind, strict=True)]


def _cut_joined(recipe: Joined, box: Box) -> Recipe:
    axis, end, found = recipe.axis, 0, []
    start, stop = box[axis]
    for part in recipe.inner:
        first, end = end, end + part.shape[axis]
        if (begin := max(start, first)) < (finish := min(stop, end)):
            own = (begin - first, finish - first)
            found.append(cut(part, (*box[:axis], own, *box[axis + 1 :])))
    return join(found, axis)


def _cut_view(view: View, box: Box) -> Recipe:
    found: Recipe = view
    for axis, pair in enumerate(box):
        found = found.slice(axis, *pair)
        if not isinstance(found, View):  # through merged axes, so that it is in parts
            return cut(found, [*((0, n) for n in found.shape[: axis + 1]), *box[axis + 1 :]])
    if isinstance(found, View) and isinstance(found.base, Recipe):
        return _tightened(found, found.base)
    return found


def _tightened(view: View, base: Recipe) -> Recipe:
    """The view of no more of its base than the box that it lies in."""
    found = strides.located(base.shape, view.axes, view.offset)
    less = cut(base, found[0]) if found else base
    if found is None or less is base:
        return view
    axes = strides.restrided(base.shape, view.axes, found[1], contiguous_strides(less.shape))
    return (isinstance(less, View) and _composed(less, axes)) or strided(less, axes, 0)


def _composed(base: View, axes: strides.Axes) -> Recipe | None:
    """A view of a view as one of what that shows, where strides can say it."""
    grid = strides.gridded(base.shape, axes, 0)
    if grid is None or strides.split(base.axes, grid.shape) is None:
        return None
    found = base.reshape(grid.shape).box(grid.box)
    return found.permute(grid.order).reshape(tuple(map(length, axes)))


def ranges(recipe: Recipe) -> Iterator[Run]:
    """The elements of the sources that it moves, in row-major order, as long as they run on.

    Raises ValueError where something is computed.
    """
    found: Run | None = None
    for source, first, count in _runs(recipe):
        if found and found[0] == source and (source is None or first == found[1] + found[2]):
            found = source, found[1], found[2] + count
            continue
        if found:
            yield found
        found = source, first, count
    if found:
        yield found


def _runs(recipe: Recipe) -> Iterator[Run]:
    match recipe:
        case Zeros():
            yield None, 0, recipe.numel
        case View(base=TensorSpec() as source):
            for first, count in strides.runs(recipe.axes, recipe.offset):
                yield source, first, count
        case View(base=Recipe() as base):
            below = _Runs(base)
            for first, count in strides.runs(recipe.axes, recipe.offset):
                yield from below.between(first, first + count)
        case Joined(axis=0):
            for part in recipe.inner:
                yield from ranges(part)
        case Joined(axis=axis):
            parts = [(_Runs(part), math.prod(part.shape[axis:])) for part in recipe.inner]
            for at in range(math.prod(recipe.shape[:axis])):
                for runs, size in parts:
                    yield from runs.between(at * size, (at + 1) * size)
        case _:
            raise ValueError("what is computed moves no bytes")


class _Runs:
    """The runs of a recipe, of which any stretch of its elements can be asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self._runs = [*ranges(recipe)]
        self._ends = [*accumulate(count for *_, count in self._runs)]

    def between(self, start: int, stop: int) -> Iterator[Run]:
        at = bisect_right(self._ends, start)
        while start < stop:
            source, first, count = self._runs[at]
            end = self._ends[at]
            taken = min(stop, end) - start
            yield source, 0 if source is None else first + start - (end - count), taken
            start, at = start + taken, at + 1
