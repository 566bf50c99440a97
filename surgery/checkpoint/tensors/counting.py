"""NaN and Inf among the values of a storage that is passed through a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from surgery.checkpoint.places import Place
from surgery.checkpoint.source import Reader
from surgery.checkpoint.tensors.casting import widened
from surgery.checkpoint.tensors.reading import as_numbers, read_tensor

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
            first, last = max(place.start - at, 0), min(_stop(place) - at, len(data))
            part = data if (first, last) == (0, len(data)) else data[first:last]
            dtype = _PARTS.get(place.dtype, place.dtype)
            numbers = as_numbers(part, dtype, swapped=place.region.swapped)
            more = _nan_and_inf(numbers.view(-1, 1 + (place.dtype in _PARTS)))
            if any(more):
                nan, inf = self.special.get(place, (0, 0))
                self.special[place] = nan + more[0], inf + more[1]

    def look_again(self, reader: Reader) -> None:
        """Read the views that leave elements out or repeat them, where there was any among the
        bytes that they stretch over.
        """
        for place in self.special:
            if not place.is_dense:
                value = read_tensor(place, reader)
                parts = torch.view_as_real(value) if value.is_complex() else value.unsqueeze(-1)
                self.special[place] = _nan_and_inf(parts)


def _stop(place: Place) -> int:
    """The byte behind the last one of the view, in its storage."""
    return place.start + place.extent * place.itemsize


def _nan_and_inf(parts: torch.Tensor) -> tuple[int, int]:
    """How many are NaN and how many Inf among numbers whose parts are the last axis. One pass
    tells where neither is.

    A complex number is NaN where either part is, and infinite where either part is, so that it
    may be both; torch.isnan and torch.isinf have it so.
    """
    parts = widened(parts) if parts.element_size() == 1 else parts
    if all(math.isfinite(end) for end in torch.aminmax(parts)):
        return 0, 0
    return int(parts.isnan().any(-1).sum()), int(parts.isinf().any(-1).sum())
