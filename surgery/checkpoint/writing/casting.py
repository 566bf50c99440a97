"""Values in another dtype, piece by piece, and a count of those that did not survive it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from surgery.checkpoint.tensors import flat_pieces
from surgery.checkpoint.writing.values import Computed, Values
from surgery.errors import ValueRefused
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch


class Casts:
    """The casts of one job; ``broken`` counts, by name, what those done so far have broken."""

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}

    def cast(self, name: str, values: Values, dtype: str) -> Values:
        """``values`` in ``dtype`` (``"float16"``); computed only when they are asked for."""
        spec = TensorSpec.of(name, values)
        if spec.dtype == dtype:
            return values
        return Computed(spec.shape, dtype, lambda: self._pieces(name, values, dtype))

    def _pieces(self, name: str, values: Values, dtype: str) -> Iterator[torch.Tensor]:
        total = 0
        for piece in flat_pieces(values):
            result, broken = cast(piece, dtype)
            total += broken
            yield result
        if total:
            self.broken[name] = total


def refuse_broken(broken: Mapping[str, int]) -> None:
    """Raise ValueRefused where casts broke values; ``broken`` counts them by tensor."""
    if broken:
        raise ValueRefused(
            f"strict: casts break {sum(broken.values())} values in "
            f"{len(broken)} tensors, the first is {next(iter(broken))}; nothing was changed"
        )


def cast(value: torch.Tensor, dtype: str) -> tuple[torch.Tensor, int]:
    """The values in ``dtype``, and how many elements did not survive: finite values that became
    infinite or NaN, and integers that changed.
    """
    import torch

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
    import torch

    signed = target != torch.float8_e8m0fnu
    return signed and torch.finfo(target).max >= torch.finfo(source).max


def _is_finite(value: torch.Tensor) -> torch.Tensor:
    import torch

    knows = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return torch.isfinite(value if value.dtype in knows else widened(value))


def widened(value: torch.Tensor) -> torch.Tensor:
    """In a dtype that every float fits and that every operation knows."""
    import torch

    return value.to(torch.complex128 if value.is_complex() else torch.float64)
