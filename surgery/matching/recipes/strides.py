"""Axes as strided factors: what slicing, permuting and reshaping do to a view.

An axis is a tuple of factors ``(size, stride)``, the outermost first: an index along it is written
in the mixed radix of the sizes, and every digit moves by its stride. Reshaping splits and merges
factors, so that merged axes need not lie one behind the other. Strides are in elements of what is
viewed, whose values are taken to lie in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from surgery.checkpoint.places import contiguous_strides

Shape = tuple[int, ...]
Axis = tuple[tuple[int, int], ...]
Axes = tuple[Axis, ...]
#: (start, stop) for every axis.
Box = Sequence[tuple[int, int]]


def merged(factors: Iterable[tuple[int, int]]) -> Axis:
    """The one way to write these factors: neighbours that run on are one, and none has size 1."""
    found: list[tuple[int, int]] = []
    for size, stride in factors:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            size *= found.pop()[0]
        found.append((size, stride))
    return tuple(found)


def contiguous(shape: Shape) -> Axes:
    """The axes of a tensor whose values lie in row-major order."""
    return tuple(
        () if size == 1 else ((size, stride),)
        for size, stride in zip(shape, contiguous_strides(shape), strict=True)
    )


def length(axis: Axis) -> int:
    """How many indices an axis has."""
    return math.prod(size for size, _ in axis)


def split(axes: Axes, shape: Shape) -> Axes | None:
    """The axes of the same values in another shape; None where no strides can say it."""
    left = [*merged(factor for axis in axes for factor in axis)]
    found: list[Axis] = []
    for size in reversed(shape):
        axis: list[tuple[int, int]] = []
        while size > 1:
            inner, stride = left.pop()
            if inner > size:
                if inner % size:
                    return None
                left.append((inner // size, stride * size))
                inner = size
            elif size % inner:
                return None
            axis.append((inner, stride))
            size //= inner
        found.append(merged(reversed(axis)))
    return tuple(reversed(found))


def cut(axis: Axis, start: int, stop: int) -> Iterator[tuple[int, Axis]]:
    """Indices ``start`` to ``stop`` of an axis, as offsets and axes one behind the other.

    One for a single factor. Through merged factors at most three: what is left of a first block,
    whole blocks, and the beginning of a last one (and each of these alike).
    """
    if not axis:
        yield 0, ()
        return
    (_, stride), *rest = axis
    block = length(tuple(rest))
    first, last = -(-start // block), stop // block
    if first > last:  # within one block
        for offset, part in cut(tuple(rest), start - last * block, stop - last * block):
            yield last * stride + offset, part
        return
    if start < first * block:
        for offset, part in cut(tuple(rest), start % block, block):
            yield (first - 1) * stride + offset, part
    if first < last:
        yield first * stride, merged(((last - first, stride), *rest))
    if last * block < stop:
        for offset, part in cut(tuple(rest), 0, stop - last * block):
            yield last * stride + offset, part


def box_of(shape: Shape, axes: Axes, offset: int) -> Box | None:
    """The smallest box of a contiguous tensor of ``shape`` that holds the view; None where the
    view sees rows as one.
    """
    factors = [factor for axis in axes for factor in axis]
    box: list[tuple[int, int]] = []
    for size, step in zip(shape, contiguous_strides(shape), strict=True):
        mine = [(n, t) for n, t in factors if step <= t < step * size and t % step == 0]
        start = offset // step % max(size, 1)
        stop = start + 1 + sum((n - 1) * t // step for n, t in mine)
        if stop > size:
            return None
        box.append((start, stop))
        factors = [factor for factor in factors if factor not in mine]
    return None if factors else box


def moved(old: Shape, new: Shape, axes: Axes) -> Axes:
    """The same steps along each axis of a tensor that has fewer elements along them."""
    steps = sorted(zip(contiguous_strides(old), contiguous_strides(new), old, strict=True))

    def step(stride: int) -> int:
        before, after = next(
            (a, b) for a, b, size in reversed(steps) if a <= stride < a * size and not stride % a
        )
        return stride // before * after

    return tuple(merged((n, step(t)) for n, t in axis) for axis in axes)


def runs(axes: Axes, offset: int) -> Iterator[tuple[int, int]]:
    """First element and number of those that lie one behind the other, in row-major order."""
    factors = [*merged(factor for axis in axes for factor in axis)]
    count = factors.pop()[0] if factors and factors[-1][1] == 1 else 1
    places = ([at * stride for at in range(size)] for size, stride in factors)
    for steps in product(*places) if count else ():
        yield offset + sum(steps), count


@dataclass(frozen=True, slots=True)
class Grid:
    """A view in three steps: what is viewed in the shape ``shape``, of that a ``box``, and the
    axes in the order ``order``. What is left is a reshape that merges axes.
    """

    shape: Shape
    box: Box
    order: tuple[int, ...]

    @property
    def sliced(self) -> bool:
        return any(pair != (0, size) for pair, size in zip(self.box, self.shape, strict=True))

    def rows_of(self, shape: Shape) -> int:
        """Into how many axes the rows of what is viewed are split, where all other axes stay as
        they are; else 0.
        """
        rows = len(self.shape) - len(shape) + 1
        others = self.shape[rows:], self.order[rows:]
        return rows if others == (shape[1:], tuple(range(rows, len(self.order)))) else 0


def gridded(shape: Shape, axes: Axes, offset: int) -> Grid | None:
    """The view of a contiguous tensor of ``shape`` as a :class:`Grid`.

    None for the few that are sliced in one shape and split in another.
    """
    factors = [factor for axis in axes for factor in axis]
    sizes = {stride: size for size, stride in factors}
    own = {step for step, size in zip(contiguous_strides(shape), shape, strict=True) if size != 1}
    # A factor that runs over the end of a row sees the rows as one.
    crossed = {step for step in own for size, stride in factors if stride < step < size * stride}
    steps = sorted({math.prod(shape), 1, *(own - crossed), *sizes}, reverse=True)
    if 0 in (*shape, *sizes) or len(sizes) < len(factors):
        return None
    if any(outer % inner for outer, inner in pairwise(steps)):
        return None
    fine = [outer // inner for outer, inner in pairwise(steps)]
    starts = [offset // step % size for size, step in zip(fine, steps[1:], strict=True)]
    box = [(at, at + sizes.get(step, 1)) for at, step in zip(starts, steps[1:], strict=True)]
    if any(stop > size for (_, stop), size in zip(box, fine, strict=True)):
        return None
    at_step = dict(zip(steps[1:], range(len(fine)), strict=True))
    if fine == [size for size in shape if size != 1]:  # its own axes, those of one element too
        places = [at for at, size in enumerate(shape) if size != 1]
        at_step = {step: places[at] for step, at in at_step.items()}
        boxes = iter(box)
        box = [(0, 1) if size == 1 else next(boxes) for size in shape]
        fine = [*shape]
    return Grid(tuple(fine), tuple(box), _order(axes, box, at_step))


def _order(axes: Axes, box: Sequence[tuple[int, int]], at_step: dict[int, int]) -> tuple[int, ...]:
    """Where every axis of the view lies; an axis of one element is any that is left with one."""
    ones = [at for at, (start, stop) in enumerate(box) if stop - start == 1]
    order: list[int] = []
    for axis in axes:
        if axis:
            order += [at_step[stride] for _, stride in axis]
        elif ones:
            order.append(ones.pop(0))
    return (*order, *ones)
