"""A tensor of every dtype and of every odd shape, with bits that no default value has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

DTYPES = [
    *("float64", "float32", "float16", "bfloat16", "int64", "int32"),
    *("int16", "int8", "uint8", "bool", "complex64", "complex128"),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"),
]
SHAPES = [(), (0,), (3, 0, 2), (1,), (5, 3), (2, 2, 2)]


def every_dtype() -> dict[str, torch.Tensor]:
    """All bit patterns of bytes, so that NaN, -0 and booleans of 2 are among them."""
    state = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        for shape in SHAPES:
            count = torch.Size(shape).numel() * dtype.itemsize
            flat = (torch.arange(count) * 37 + 200).to(torch.uint8)
            state[f"{name}.{len(state)}"] = (
                flat.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
            )
    return state


def bits(value: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are equal bit for bit."""
    flat = value.detach().contiguous().reshape(-1)
    return value.dtype, tuple(value.shape), flat.view(torch.uint8).tolist() if len(flat) else []


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether both have the same names with the same bits."""
    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)
