"""In how many elements, and how far, two tensors differ; a part at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from surgery.checkpoint.places import Place
from surgery.checkpoint.source import Reader
from surgery.checkpoint.tensors.casting import widened
from surgery.checkpoint.tensors.reading import dense_pieces

#: Numbers of a tensor in memory that are compared at a time.
PART = 1 << 18


def count_differences(*sides: tuple[Place, Reader] | torch.Tensor) -> Tally:
    """All elements of two tensors in memory, or of two places of the same strides, in open files:
    those are read a piece at a time, in the file's order.
    """
    tally = Tally()
    for mine, theirs in zip(*map(_parts, sides), strict=True):
        if len(mine):
            tally.add(_comparable(mine), _comparable(theirs))
    return tally


def _parts(side: tuple[Place, Reader] | torch.Tensor) -> Iterable[torch.Tensor]:
    if isinstance(side, torch.Tensor):
        return torch.split(side.reshape(-1), PART)
    return dense_pieces(*side)


@dataclass(slots=True)
class Tally:
    """What the parts of two tensors come to: the ``elements`` that differ of ``total``, the
    ``largest`` absolute difference, and the largest absolute value of either side as ``scale``.
    """

    elements: int = 0
    total: int = 0
    largest: float = 0.0
    scale: float = 0.0

    def add(self, one: torch.Tensor, other: torch.Tensor) -> None:
        mine, theirs = widened(one), widened(other)
        gaps = (mine - theirs).abs()
        largest = float(gaps.max())
        differs = one != other
        if not math.isfinite(largest):
            # Infinite or NaN on either side: equal ones do not count, others show as infinity.
            differs &= ~((one != one) & (other != other))
            finite = torch.isfinite(mine) & torch.isfinite(theirs)
            endless = bool((differs & ~finite).any())
            mine, theirs, gaps = mine[finite], theirs[finite], gaps[finite]
            largest = math.inf if endless else _most(gaps)
        self.elements += int(differs.sum())
        self.total += len(one)
        self.largest = max(self.largest, largest)
        self.scale = max(self.scale, _most(mine), _most(theirs))


def _most(numbers: torch.Tensor) -> float:
    """The largest absolute value, 0 of nothing."""
    return float(numbers.abs().max()) if len(numbers) else 0.0


def _comparable(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in a dtype that torch compares, which not all of the small ones are."""
    if values.dtype == torch.float4_e2m1fn_x2:
        pairs = values.view(torch.uint8)
        return torch.tensor(_FOUR_BITS)[torch.stack((pairs & 15, pairs >> 4), -1).long()].view(-1)
    is_small = values.is_floating_point() and values.element_size() == 1
    return widened(values) if is_small or values.dtype == torch.complex32 else values


# What the 16 codes of float4_e2m1fn stand for, by the OCP Microscaling Formats specification.
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FOUR_BITS = (*_MAGNITUDES, *(-magnitude for magnitude in _MAGNITUDES))
