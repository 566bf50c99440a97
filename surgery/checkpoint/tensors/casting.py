"""Values in another dtype, and a count of those that do not survive it."""

from __future__ import annotations

import torch


def cast(value: torch.Tensor, dtype: str) -> tuple[torch.Tensor, int]:
    """The values in ``dtype``, and how many elements did not survive: finite values that became
    infinite or NaN, and integers that changed.
    """
    if str(value.dtype) == f"torch.{dtype}":
        return value, 0
    result = value.to(getattr(torch, dtype))
    if not value.is_floating_point() and not value.is_complex():
        return result, int((result.to(value.dtype) != value).sum())
    if _holds_all(result.dtype, value.dtype):
        return result, 0
    gone = ~_is_finite(result)
    if dtype == "float8_e8m0fnu":  # it has no sign
        gone |= widened(value).real < 0
    if not gone.any():
        return result, 0
    return result, int((gone & _is_finite(value)).sum())


def _holds_all(target: torch.dtype, source: torch.dtype) -> bool:
    """Whether every finite value of ``source`` is finite in ``target``, by their ranges."""
    signed = target != torch.float8_e8m0fnu
    return signed and torch.finfo(target).max >= torch.finfo(source).max


def _is_finite(value: torch.Tensor) -> torch.Tensor:
    knows = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return torch.isfinite(value if value.dtype in knows else widened(value))


def widened(value: torch.Tensor) -> torch.Tensor:
    """In a dtype that every float fits and that every operation knows."""
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
