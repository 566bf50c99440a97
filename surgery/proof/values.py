"""What the mapped tensors are given (random values, one value for each shape, or their own), and
how far two tensors are apart, whatever axes of one they have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from surgery.proof.parts import Part


def random_values(own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other values of the same shapes, in float64, none of them zero; integers stay as they are.

    Values of a checkpoint may hide a tensor: a scale of zero hides all that lies behind it, and
    statistics of 0 and 1 can be swapped. What has one axis (biases, scales, variances) lies
    between 0.5 and 1.5; the rest is normal with a variance of one over the elements of a row, so
    that signals neither vanish nor grow.
    """
    return {
        name: _drawn(value, at) if is_inexact(value) else value
        for at, (name, value) in enumerate(own.items())
    }


def values_by_shape(
    own: Mapping[str, torch.Tensor], parts: Iterable[Part]
) -> dict[str, torch.Tensor]:
    """As :func:`random_values`, but all parts of one shape get the same values, and square
    matrices equal their transpose: a network then gives one answer, whichever of them are swapped
    or turned.
    """
    drawn: dict[tuple[bool, tuple[int, ...]], torch.Tensor] = {}
    values = {k: v.detach().clone() if is_inexact(v) else v for k, v in own.items()}
    for part in parts:
        rows = part.of(values[part.source])
        if not is_inexact(rows):
            continue
        shape = squeezed(rows)
        kind = (rows.is_complex(), shape)
        if kind not in drawn:
            value = _drawn(rows, len(drawn)).reshape(shape)
            square = len(shape) == 2 and shape[0] == shape[1]
            drawn[kind] = (value + value.T) / math.sqrt(2) if square else value
        rows.copy_(drawn[kind].reshape(rows.shape))
    return values


def is_inexact(value: torch.Tensor) -> bool:
    """Whether it is made of real or complex numbers."""
    return value.is_floating_point() or value.is_complex()


def squeezed(value: torch.Tensor) -> tuple[int, ...]:
    """The shape without axes of one."""
    return tuple(size for size in value.shape if size != 1)


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference over the largest value of either: 0 where both are all zeros, and
    infinite where the shapes differ, axes of one aside, or a value is not finite.
    """
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


def _drawn(value: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if value.is_complex() else torch.float64
    shape = squeezed(value)
    if len(shape) < 2:
        return torch.rand(value.shape, generator=generator, dtype=dtype) + 0.5
    drawn = torch.randn(value.shape, generator=generator, dtype=dtype)
    return drawn / math.sqrt(max(math.prod(shape[1:]), 1))
