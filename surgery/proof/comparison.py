"""How far two tensors are apart, whatever axes of one they have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.proof.values import squeezed

if TYPE_CHECKING:
    import torch


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference over the largest value of either: 0 where both are all zeros, and
    infinite where the shapes differ, axes of one aside, or a value is not finite.
    """
    import torch

    if squeezed(one) != squeezed(other):
        return math.inf
    if not one.numel():
        return 0.0
    one, other = one.detach().reshape(-1), other.detach().reshape(-1)
    size = float(torch.maximum(one.abs().max(), other.abs().max()))
    if not math.isfinite(size):
        return math.inf
    return float((one - other).abs().max()) / size if size else 0.0


def size_of(value: torch.Tensor) -> float:
    """The largest absolute value; 1 for zeros and for what is not finite, to divide by."""
    size = float(value.detach().abs().max()) if value.numel() else 0.0
    return size if size and math.isfinite(size) else 1.0
