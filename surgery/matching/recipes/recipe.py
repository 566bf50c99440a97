"""How the values of a target tensor are made of source tensors: an expression, frozen and pure.

A leaf is a :class:`View` of one source, or :class:`Zeros`; above stand :class:`Joined` and what is
computed. Permuting and reshaping give views again, composed at once, and a slice is one of the
parts that reach into it: two ways to the same are one value, and a box of the target knows what
of the sources it needs. Sources are read in row-major order, however they are stored. Nothing
here holds a tensor; shapes that do not fit raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from surgery.matching.recipes import strides
from surgery.matching.recipes.strides import Axes, Box, Shape, contiguous, length
from surgery.specs import TensorSpec
from surgery.wording import shape_text


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
        """Indices ``start`` to ``stop`` of an axis, of the parts that reach into it alone."""
        size = self.shape[axis]
        if (start, stop) == (0, size):
            return self
        if not 0 <= start < stop <= size:
            raise ValueError(f"{size} rows have no rows {start} to {stop}")
        return self._sliced(axis, start, stop)

    def _sliced(self, axis: int, start: int, stop: int) -> Recipe:
        raise NotImplementedError

    def rows(self, start: int, stop: int) -> Recipe:
        """Indices of the first axis; a scalar is one row."""
        return self if not self.shape and (start, stop) == (0, 1) else self.slice(0, start, stop)

    def box(self, box: Box) -> Recipe:
        """A slice along every axis: what one rank of a mesh holds. It may be empty."""
        pairs = tuple(zip(box, self.shape, strict=True))
        if not all(0 <= start <= stop <= size for (start, stop), size in pairs):
            raise ValueError(f"{tuple(box)} is no box of {shape_text(self.shape)}")
        if any(start == stop for start, stop in box):
            return Zeros(tuple(stop - start for start, stop in box))
        found: Recipe = self
        for axis, pair in enumerate(box):
            found = found.slice(axis, *pair)
        return found

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

    def with_sources(self, new: Callable[[TensorSpec], TensorSpec]) -> Recipe:
        """The same of other sources of the same shapes."""
        return self

    def _view(self) -> View:
        return View(self, contiguous(self.shape))


@dataclass(frozen=True, slots=True)
class Zeros(Recipe):
    """Zeros of a shape, in the dtype of what they stand beside."""

    size: Shape

    @property
    def shape(self) -> Shape:
        return self.size

    def _sliced(self, axis: int, start: int, stop: int) -> Recipe:
        return Zeros(_with(self.size, axis, stop - start))


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

    def _sliced(self, axis: int, start: int, stop: int) -> Recipe:
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
        shape = tuple(shape)
        if math.prod(shape) != self.numel or min(shape, default=0) < 0:
            raise ValueError(f"{shape_text(self.shape)} is not {shape_text(shape)}")
        axes = strides.split(self.axes, shape) if self.numel else contiguous(shape)
        # What lies in strides that no strides split is what it gives, anew.
        return View(self, contiguous(shape)) if axes is None else self._normal(axes, self.offset)

    def _normal(self, axes: Axes, offset: int) -> Recipe:
        """Another view of the same; a recipe as it is needs none, and no more of it is kept than
        the box that the view lies in.
        """
        base, shape = self.base, tuple(map(length, axes))
        if 0 in shape:
            axes, offset = contiguous(shape), 0
        if isinstance(base, Zeros):
            return Zeros(shape)
        if isinstance(base, View) and (shown := composed(base, axes, offset)):
            return shown
        if not isinstance(base, Recipe):
            return View(base, axes, offset)
        if not offset and axes == contiguous(base.shape):
            return base
        box = None if 0 in shape else strides.box_of(base.shape, axes, offset)
        if box is None or (less := base.box(box)) is base:
            return View(base, axes, offset)
        return View(less, ())._normal(strides.moved(base.shape, less.shape, axes), 0)

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

    def with_parts(self, parts: Iterable[Recipe]) -> Recipe:
        """The same of others."""
        return replace(self, inner=tuple(parts))

    def with_sources(self, new: Callable[[TensorSpec], TensorSpec]) -> Recipe:
        return self.with_parts(part.with_sources(new) for part in self.inner)


@dataclass(frozen=True, slots=True)
class Joined(Nested):
    """Recipes one behind the other along an axis; :func:`join` makes one."""

    axis: int = 0

    @property
    def shape(self) -> Shape:
        first = self.inner[0].shape
        return _with(first, self.axis, sum(part.shape[self.axis] for part in self.inner))

    def _sliced(self, axis: int, start: int, stop: int) -> Recipe:
        if axis != self.axis:
            return join([part.slice(axis, start, stop) for part in self.inner], self.axis)
        end, found = 0, []
        for part in self.inner:
            first, end = end, end + part.shape[axis]
            if (begin := max(start, first)) < (finish := min(stop, end)):
                found.append(part.slice(axis, begin - first, finish - first))
        return join(found, axis)


def join(parts: Sequence[Recipe], axis: int = 0) -> Recipe:
    """The parts one behind the other; what is joined along the axis already comes in its parts."""
    found: list[Recipe] = []
    first = parts[0].shape
    if not 0 <= axis < max(len(first), 1):
        raise ValueError(f"{shape_text(first)} has no axis {axis} to be joined along")
    for part in parts:
        if _with(part.shape, axis, 0) != _with(first, axis, 0):
            shapes = f"{shape_text(first)} and {shape_text(part.shape)}"
            raise ValueError(f"{shapes} cannot be joined along axis {axis}")
        same = isinstance(part, Joined) and part.axis == axis
        found += part.parts if same else (part,)
    return found[0] if len(found) == 1 else Joined(tuple(found), axis)


def stack(parts: Sequence[Recipe]) -> Recipe:
    """The parts along a new first axis."""
    return join([part.reshape((1, *part.shape)) for part in parts])


def join_rows(parts: Sequence[Recipe], shape: Shape) -> Recipe:
    """The rows of all parts in a target's shape; what a row holds may be shaped otherwise, and
    axes of one element may come and go.

    Raises ValueError where they do not fill it.
    """
    if len(parts) == 1 and squeezed(parts[0].shape) == squeezed(shape):
        return parts[0].reshape(shape)
    rows = [row_count(part.shape) for part in parts]
    if sum(rows) != row_count(shape):
        raise ValueError(f"{sum(rows)} rows do not fill {shape_text(shape)}")
    made = join([part.reshape((n, *shape[1:])) for part, n in zip(parts, rows, strict=True)])
    return made.reshape(shape)


def row_count(shape: Shape) -> int:
    """How many rows there are; a scalar is one."""
    return shape[0] if shape else 1


def squeezed(shape: Shape) -> Shape:
    """Without axes of one element."""
    return tuple(size for size in shape if size != 1)


def composed(base: View, axes: Axes, offset: int) -> Recipe | None:
    """A view of a view as one of what that shows, where strides can say it."""
    grid = strides.gridded(base.shape, axes, offset)
    if grid is None or strides.split(base.axes, grid.shape) is None:
        return None
    found = base.reshape(grid.shape).box(grid.box)
    return found.permute(grid.order).reshape(tuple(map(length, axes)))


def strided(base: TensorSpec | Recipe, axes: Sequence[Sequence[Any]], offset: int) -> Recipe:
    """A view by its factors, as texts have them; ValueError where it leaves its base."""
    found = tuple(strides.merged((int(n), int(t)) for n, t in axis) for axis in axes)
    factors = [factor for axis in found for factor in axis]
    numbers = [offset, *(number for factor in factors for number in factor)]
    reach = offset + sum((size - 1) * stride for size, stride in factors)
    if min(numbers) < 0 or (all(n for n, _ in factors) and reach >= math.prod(base.shape)):
        raise ValueError(f"a view of element {reach} of {math.prod(base.shape)}")
    return View(base, ())._normal(found, offset)


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
