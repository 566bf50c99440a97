"""NaN and Inf among the values of a storage that is passed through a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from surgery.checkpoint.places import Place
from surgery.checkpoint.tensors.reading import as_numbers

_PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
_WITHOUT = "float4"  # the 4-bit floats have neither


class Counts:
    """What each floating view of one storage shows; ``special`` is (NaN, Inf) by view, where any.

    There may be very many views: each is looked at only while bytes of its own pass.
    """

    def __init__(self, views: Iterable[Place]) -> None:
        able = (place for place in views if not place.dtype.startswith(_WITHOUT))
        self.special: dict[Place, tuple[int, int]] = {}
        self._waiting = sorted(able, key=lambda place: place.start, reverse=True)
        self._begun: list[Place] = []

    def add(self, at: int, data: bytearray) -> None:
        """The bytes of the storage from ``at``, which follow those before."""
        while self._waiting and self._waiting[-1].start < at + len(data):
            self._begun.append(self._waiting.pop())
        self._begun = [place for place in self._begun if _stop(place) > at]
        for place in self._begun:
            nan, inf = self.special.get(place, (0, 0))
            more = _special(place, at, data)
            if any(more):
                self.special[place] = nan + more[0], inf + more[1]


def _stop(place: Place) -> int:
    """The byte behind the last one of the view, in its storage."""
    return place.start + place.extent * place.itemsize


def _special(place: Place, at: int, data: bytearray) -> tuple[int, int]:
    """(NaN, Inf) among the elements of the view in a piece that begins at byte ``at``."""
    first, last = max(place.start - at, 0), min(_stop(place) - at, len(data))
    part = data if (first, last) == (0, len(data)) else data[first:last]
    masks = _nan_and_inf(part, place)
    if masks is None:
        return 0, 0
    if place.is_dense:
        return int(masks[0].sum()), int(masks[1].sum())
    before, steps = (at + first - place.start) // place.itemsize, sorted(place.steps, reverse=True)
    nan, inf = (_times_shown(mask.nonzero()[:, 0] + before, steps) for mask in masks)
    return nan, inf


def _nan_and_inf(data: bytearray, place: Place) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Where among the numbers NaN and where Inf is, as two masks; None where neither is, which
    one pass over them tells.

    A complex number is NaN where either part is, and infinite where either part is, so that it
    may be both; torch.isnan and torch.isinf have it so.
    """
    dtype = _PARTS.get(place.dtype, place.dtype)
    numbers = as_numbers(data, dtype, swapped=place.region.swapped)
    numbers = numbers.float() if dtype.startswith("float8") else numbers
    if all(math.isfinite(end) for end in torch.aminmax(numbers)):
        return None
    nan, inf = numbers.isnan(), numbers.isinf()
    if place.dtype in _PARTS:
        return nan.view(-1, 2).any(1), inf.view(-1, 2).any(1)
    return nan, inf


def _times_shown(positions: torch.Tensor, steps: Sequence[tuple[int, int]]) -> int:
    """How many elements of the view lie at ``positions``, counted from its first one; ``steps``
    are (stride, size) of its axes, the widest first.

    A position that no index leads to counts 0, one that several lead to counts for each:
    the number of ways to write it as a sum of ``index * stride``. ``positions`` are int64.
    """
    if not len(positions):
        return 0
    if not steps or not steps[0][0]:  # no axis moves
        return int((positions == 0).sum()) * math.prod(size for _, size in steps)
    (stride, size), rest = steps[0], steps[1:]
    reach = sum((size - 1) * stride for stride, size in rest)
    times = 0
    # Where the axes below reach over a stride, a lower index may lead to the position too.
    for lower in range(reach // stride + 1):
        index = positions // stride - lower
        remainder = positions - index * stride
        possible = (index >= 0) & (index < size) & (remainder <= reach)
        times += _times_shown(remainder[possible], rest)
    return times
