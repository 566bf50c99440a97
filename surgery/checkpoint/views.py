"""Which elements of a storage a strided view shows, and how often each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.checkpoint.places import Place, contiguous_strides

if TYPE_CHECKING:
    import torch

#: (stride, size) in elements.
Axis = tuple[int, int]


def axes(place: Place) -> tuple[Axis, ...]:
    """The axes that move, the widest stride first; an axis of one element never moves."""
    pairs = zip(place.strides, place.shape, strict=True)
    return tuple(sorted(((stride, size) for stride, size in pairs if size > 1), reverse=True))


def is_dense(place: Place) -> bool:
    """Whether the view shows every element from its first to its last exactly once."""
    moving = axes(place)
    sizes = tuple(size for _, size in moving)
    return tuple(stride for stride, _ in moving) == contiguous_strides(sizes)


def times_shown(positions: torch.Tensor, axes: Sequence[Axis]) -> int:
    """How many elements of the view lie at ``positions``, counted from its first one.

    A position that no index leads to counts 0, one that several lead to counts for each:
    the number of ways to write it as a sum of ``index * stride``. ``positions`` are int64.
    """
    if not len(positions):
        return 0
    if not axes:
        return int((positions == 0).sum())
    (stride, size), rest = axes[0], axes[1:]
    if stride == 0:  # the widest: no axis moves
        return int((positions == 0).sum()) * math.prod(size for _, size in axes)
    reach = sum((size - 1) * stride for stride, size in rest)
    times = 0
    # Where the axes below reach over a stride, a lower index may lead to the position too.
    for lower in range(reach // stride + 1):
        index = positions // stride - lower
        remainder = positions - index * stride
        possible = (index >= 0) & (index < size) & (remainder <= reach)
        times += times_shown(remainder[possible], rest)
    return times
