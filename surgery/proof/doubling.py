"""Models in float64, also where they ask for less: rounding would hide differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})
_CASTS = frozenset({"float", "half", "bfloat16"})


class Widen(TorchFunctionMode):
    """Functions that are asked for float32 or less give float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _CASTS:
            return self.call(torch.Tensor.double, args[:1], {})
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return self.call(func, tuple(map(_wide, args)), named)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of a function of torch."""
        return func(*args, **kwargs)


@contextmanager
def in_float64(mode: Widen) -> Iterator[None]:
    """Whatever is built or computed in here is float64: new tensors, and casts to anything less.

    Norms and softmaxes that ask for float32 get float64 too, and so do the tables that
    constructors compute (relative coordinates, rotary frequencies).
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mode:
            yield
    finally:
        torch.set_default_dtype(before)


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
