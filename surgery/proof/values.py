"""What the mapped tensors are given: random values, one value for each shape, or their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from surgery.proof.parts import Part


def random_values(own: Mapping[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """Other values of the same shapes, in float64, none of them zero; integers stay as they are.

    Values of a checkpoint may hide a tensor: a scale of zero hides all that lies behind it, and
    statistics of 0 and 1 can be swapped. What has one axis (biases, scales, variances) lies
    between 0.5 and 1.5; the rest is normal with a variance of one over the elements of a row, so
    that signals neither vanish nor grow.
    """
    return {
        name: _drawn(value, seed + at) if is_inexact(value) else value
        for at, (name, value) in enumerate(own.items())
    }


def values_by_shape(
    own: Mapping[str, torch.Tensor], parts: Iterable[Part], seed: int = 0
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
            drawn[kind] = _even(_drawn(rows, seed + len(drawn)).reshape(shape))
        rows.copy_(drawn[kind].reshape(rows.shape))
    return values


def is_inexact(value: torch.Tensor) -> bool:
    """Whether it is made of real or complex numbers."""
    return value.is_floating_point() or value.is_complex()


def squeezed(value: torch.Tensor) -> tuple[int, ...]:
    """The shape without axes of one."""
    return tuple(size for size in value.shape if size != 1)


def _drawn(value: torch.Tensor, seed: int) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if value.is_complex() else torch.float64
    shape = squeezed(value)
    if len(shape) < 2:
        return torch.rand(value.shape, generator=generator, dtype=dtype) + 0.5
    drawn = torch.randn(value.shape, generator=generator, dtype=dtype)
    return drawn / math.sqrt(max(math.prod(shape[1:]), 1))


def _even(value: torch.Tensor) -> torch.Tensor:
    square = value.ndim == 2 and value.shape[0] == value.shape[1]
    return (value + value.T) / math.sqrt(2) if square else value
