"""How the values of a target tensor are made of source tensors: an expression, frozen and pure.

A leaf is a :class:`View` of one source, or :class:`Zeros`; above stand :class:`Joined` and what is
computed. Taking rows, slicing, permuting and reshaping give views again, composed at once, so that
two ways to the same view are one value. Sources are read in row-major order, however they are
stored. Nothing here holds a tensor; shapes that do not fit raise ValueError.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

from surgery.checkpoint.places import contiguous_strides
from surgery.matching.recipes import strides
from surgery.matching.recipes.strides import (
    Axes,
    Shape,
    box_shape,
    contiguous,
    extent,
    length,
    same_numel,
)
from surgery.specs import TensorSpec
from surgery.wording import shape_text

T = TypeVar("T")
#: (start, stop) for every axis.
Box = Sequence[tuple[int, int]]
#: A source or None for zeros, the first of its elements, and how many.
Run = tuple[TensorSpec | None, int, int]


class Recipe:
    """What all expressions have. Every one has a ``shape``."""

    __slots__ = ()

    @property
    def shape(self) -> Shape:
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """What it is made of, one level down."""
        return ()

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def views(self) -> tuple[View, ...]:
        """The views of sources in it, in order."""
        return tuple(view for part in self.parts for view in part.views)

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        """All sources, each once, in the order of their first use."""
        return tuple(dict.fromkeys(view.source for view in self.views))

    @property
    def moves(self) -> bool:
        """Whether every value is a source's own or zero, and nothing is computed."""
        return all(part.moves for part in self.parts)

    @property
    def is_copy(self) -> bool:
        """Whether it is one source as it is."""
        return False

    def slice(self, axis: int, start: int, stop: int) -> Recipe:
        """Indices ``start`` to ``stop`` of an axis."""
        whole = (start, stop) == (0, self.shape[axis])
        return self if whole else self._view().slice(axis, start, stop)

    def rows(self, start: int, stop: int) -> Recipe:
        """Indices of the first axis; a scalar is one row."""
        return self if not self.shape and (start, stop) == (0, 1) else self.slice(0, start, stop)

    def permute(self, order: Sequence[int]) -> Recipe:
        """The axes in another order, as :func:`torch.permute`."""
        return self._view().permute(order)

    def reshape(self, shape: Sequence[int]) -> Recipe:
        """The same values in row-major order in another shape."""
        return self if tuple(shape) == self.shape else self._view().reshape(shape)

    def reorder(self, shape: Sequence[int], order: Sequence[int]) -> Recipe:
        """Rows seen in ``shape``, its axes permuted, and made rows again: q, k and v of one head
        beside each other or one below the other, rotary halves or interleaved.
        """
        rest = self.shape[1:]
        more = range(len(shape), len(shape) + len(rest))
        return self.reshape((*shape, *rest)).permute((*order, *more)).reshape(self.shape)

    def cut(self, box: Box) -> Recipe:
        """The values in a box of the shape, of the parts that reach into it alone."""
        sizes = box_shape(box, self.shape)
        if sizes == self.shape:
            return self
        return self._cut(tuple(box)) if math.prod(sizes) else Zeros(sizes)

    def ranges(self) -> Iterator[Run]:
        """The elements of the sources that it moves, in row-major order, as long as they run on.

        Raises ValueError where something is computed.
        """
        found: Run | None = None
        for source, first, count in self._runs():
            if found and found[0] == source and (source is None or first == found[1] + found[2]):
                found = source, found[1], found[2] + count
                continue
            if found:
                yield found
            found = source, first, count
        if found:
            yield found

    def with_sources(self, new: Callable[[TensorSpec], TensorSpec]) -> Recipe:
        """The same of other sources of the same shapes."""
        return self._with_parts([part.with_sources(new) for part in self.parts])

    def _view(self) -> View:
        return View(self, contiguous(self.shape))

    def _cut(self, box: Box) -> Recipe:
        raise NotImplementedError

    def _runs(self) -> Iterator[Run]:
        raise ValueError("what is computed moves no bytes")

    def _with_parts(self, parts: Sequence[Recipe]) -> Recipe:
        return self


@dataclass(frozen=True, slots=True)
class Zeros(Recipe):
    """Zeros of a shape, in the dtype of what they stand beside."""

    size: Shape

    @property
    def shape(self) -> Shape:
        return self.size

    def slice(self, axis: int, start: int, stop: int) -> Recipe:
        return Zeros(_with(self.size, axis, extent(start, stop, self.size[axis])))

    def permute(self, order: Sequence[int]) -> Recipe:
        return Zeros(tuple(self.size[at] for at in order))

    def reshape(self, shape: Sequence[int]) -> Recipe:
        return Zeros(same_numel(tuple(shape), self.size))

    def _cut(self, box: Box) -> Recipe:
        return Zeros(box_shape(box, self.size))

    def _runs(self) -> Iterator[Run]:
        yield None, 0, self.numel


@dataclass(frozen=True, slots=True)
class View(Recipe):
    """A strided view of a source, or of what another recipe gives.

    ``axes`` are those of :mod:`surgery.matching.recipes.strides`, ``offset`` is the first element.
    Only :meth:`of` and the methods of recipes make one, so that equal views are equal values.
    """

    base: TensorSpec | Recipe
    axes: Axes
    offset: int = 0

    @classmethod
    def of(cls, base: TensorSpec) -> View:
        """A source as it is."""
        return cls(base, contiguous(base.shape))

    @property
    def shape(self) -> Shape:
        return tuple(map(length, self.axes))

    @property
    def parts(self) -> tuple[Recipe, ...]:
        return (self.base,) if isinstance(self.base, Recipe) else ()

    @property
    def views(self) -> tuple[View, ...]:
        return self.base.views if isinstance(self.base, Recipe) else (self,)

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        return (self.base,) if isinstance(self.base, TensorSpec) else self.base.sources

    @property
    def source(self) -> TensorSpec:
        """The source that it shows; of a view of a recipe there may be several."""
        assert isinstance(self.base, TensorSpec)
        return self.base

    @property
    def is_copy(self) -> bool:
        return isinstance(self.base, TensorSpec) and self == View.of(self.base)

    @property
    def grid(self) -> strides.Grid | None:
        """As :func:`surgery.matching.recipes.strides.gridded`."""
        return strides.gridded(self.base.shape, self.axes, self.offset)

    @property
    def window(self) -> tuple[int, int, int] | None:
        """Which axis of the source its rows lie along, from where to where; None where along none
        alone.
        """
        grid, shape = self.grid, self.base.shape
        if grid is None or not grid.order:
            return None if shape else (0, 0, 1)
        at = grid.order[0]
        own = math.prod(grid.shape[:at]) == math.prod(shape[:at]) and grid.shape[at] == shape[at]
        return (at, *grid.box[at]) if own else None

    def slice(self, axis: int, start: int, stop: int) -> Recipe:
        extent(start, stop, self.shape[axis])
        found = [
            self._normal((*self.axes[:axis], part, *self.axes[axis + 1 :]), self.offset + offset)
            for offset, part in strides.cut(self.axes[axis], start, stop)
        ]
        return join(found, axis)

    def permute(self, order: Sequence[int]) -> Recipe:
        if sorted(order) != [*range(len(self.axes))]:
            raise ValueError(f"{tuple(order)} is no order of {len(self.axes)} axes")
        return self._normal(tuple(self.axes[at] for at in order), self.offset)

    def reshape(self, shape: Sequence[int]) -> Recipe:
        shape = same_numel(tuple(shape), self.shape)
        if shape == self.shape:
            return self
        axes = strides.split(self.axes, shape) if self.numel else contiguous(shape)
        # What lies in strides that no strides split is what it gives, anew.
        return View(self, contiguous(shape)) if axes is None else self._normal(axes, self.offset)

    def _normal(self, axes: Axes, offset: int) -> Recipe:
        """Another view of the same; a recipe as it is needs none."""
        shape = tuple(map(length, axes))
        if 0 in shape:
            axes, offset = contiguous(shape), 0
        if isinstance(self.base, Zeros):
            return Zeros(shape)
        if isinstance(self.base, View) and (deeper := _composed(self.base, axes, offset)):
            return deeper
        if isinstance(self.base, Recipe) and not offset and axes == contiguous(self.base.shape):
            return self.base
        return View(self.base, axes, offset)

    def _cut(self, box: Box) -> Recipe:
        found: Recipe = self
        for axis, (start, stop) in enumerate(box):
            found = found.slice(axis, start, stop) if isinstance(found, View) else found
            if not isinstance(found, View):  # through merged axes, so that it is in parts
                return found.cut([*((0, n) for n in found.shape[: axis + 1]), *box[axis + 1 :]])
        if isinstance(found, View) and isinstance(found.base, Recipe):
            return _tightened(found)
        return found

    def _runs(self) -> Iterator[Run]:
        own = strides.runs(self.axes, self.offset)
        if isinstance(self.base, TensorSpec):
            yield from ((self.base, first, count) for first, count in own)
            return
        below = [*self.base.ranges()]
        ends = [*accumulate(count for *_, count in below)]
        for first, count in own:
            at = bisect_right(ends, first)
            while count:
                source, start, size = below[at]
                skipped = first - (ends[at] - size)
                taken = min(count, size - skipped)
                yield source, 0 if source is None else start + skipped, taken
                first, count, at = first + taken, count - taken, at + 1

    def with_sources(self, new: Callable[[TensorSpec], TensorSpec]) -> Recipe:
        base = self.base
        return replace(self, base=base.with_sources(new) if isinstance(base, Recipe) else new(base))


@dataclass(frozen=True, slots=True)
class Nested(Recipe):
    """What is made of other recipes alone; ``inner`` are these."""

    inner: tuple[Recipe, ...]

    @property
    def parts(self) -> tuple[Recipe, ...]:
        return self.inner

    def _with_parts(self, parts: Sequence[Recipe]) -> Recipe:
        return replace(self, inner=tuple(parts))


@dataclass(frozen=True, slots=True)
class Joined(Nested):
    """Recipes one behind the other along an axis; :func:`join` makes one."""

    axis: int = 0

    @property
    def shape(self) -> Shape:
        first = self.inner[0].shape
        return _with(first, self.axis, sum(part.shape[self.axis] for part in self.inner))

    def _cut(self, box: Box) -> Recipe:
        (start, stop), end, found = box[self.axis], 0, []
        for part in self.inner:
            first, end = end, end + part.shape[self.axis]
            if (begin := max(start, first)) < (finish := min(stop, end)):
                own = (begin - first, finish - first)
                found.append(part.cut((*box[: self.axis], own, *box[self.axis + 1 :])))
        return join(found, self.axis)

    def _runs(self) -> Iterator[Run]:
        runs = [part.ranges() for part in self.inner]
        if self.axis == 0:
            for each in runs:
                yield from each
            return
        sizes = [math.prod(part.shape[self.axis :]) for part in self.inner]
        left: list[Run] = [(None, 0, 0)] * len(runs)
        for _ in range(math.prod(self.shape[: self.axis])):
            for at, size in enumerate(sizes):
                while size:
                    source, first, count = left[at] if left[at][2] else next(runs[at])
                    taken = min(size, count)
                    yield source, first, taken
                    rest = 0 if source is None else first + taken
                    left[at], size = (source, rest, count - taken), size - taken


def join(parts: Sequence[Recipe], axis: int = 0) -> Recipe:
    """The parts one behind the other; what is joined along the axis already comes in its parts."""
    found: list[Recipe] = []
    if not 0 <= axis < max(len(parts[0].shape), 1):
        raise ValueError(f"{shape_text(parts[0].shape)} has no axis {axis} to be joined along")
    for part in parts:
        same = isinstance(part, Joined) and part.axis == axis
        for each in part.parts if same else (part,):
            if _without(each.shape, axis) != _without(parts[0].shape, axis):
                shapes = " and ".join(shape_text(p.shape) for p in (parts[0], each))
                raise ValueError(f"{shapes} cannot be joined along axis {axis}")
            found.append(each)
    return found[0] if len(found) == 1 else Joined(tuple(found), axis)


def _tightened(view: View) -> Recipe:
    """The view of no more of its base than the box that it lies in."""
    assert isinstance(view.base, Recipe)
    found = strides.located(view.base.shape, view.axes, view.offset)
    base = view.base.cut(found[0]) if found else view.base
    if found is None or base is view.base:
        return view
    new = contiguous_strides(base.shape)
    return strided(base, strides.restrided(view.base.shape, view.axes, found[1], new), 0)


def _composed(base: View, axes: Axes, offset: int) -> Recipe | None:
    """A view of a view as one of what that shows, where strides can say it."""
    grid = strides.gridded(base.shape, axes, offset)
    split = strides.split(base.axes, grid.shape) if grid else None
    if grid is None or split is None:
        return None
    found = base._normal(split, base.offset)
    for axis, pair in enumerate(grid.box):
        found = found.slice(axis, *pair)
    return found.permute(grid.order).reshape(tuple(map(length, axes)))


def strided(base: TensorSpec | Recipe, axes: Sequence[Sequence[Any]], offset: int) -> Recipe:
    """A view by its factors, as text and JSON have them; ValueError where it leaves its base."""
    found = tuple(strides.merged((int(n), int(t)) for n, t in axis) for axis in axes)
    factors = [factor for axis in found for factor in axis]
    numbers = [offset, *(number for factor in factors for number in factor)]
    reach = offset + sum((size - 1) * stride for size, stride in factors)
    if min(numbers) < 0 or (all(n for n, _ in factors) and reach >= math.prod(base.shape)):
        raise ValueError(f"a view of element {reach} of {math.prod(base.shape)}")
    return View(base, ())._normal(found, offset)


def _with(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])


def _without(items: tuple[T, ...], at: int) -> tuple[T, ...]:
    return (*items[:at], *items[at + 1 :])
