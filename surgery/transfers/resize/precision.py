"""Functions that compute in float32 whatever they are given, made to compute in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Functions that make numbers of Python's floats, in torch's default dtype.
_MAKERS = frozenset({torch.tensor, torch.arange, torch.linspace})


class InFloat64(TorchFunctionMode):
    """A context in which timm's resampling functions keep the precision of float64 weights.

    They call ``.float()``, or ask for ``dtype=torch.float32``; both give float64 here.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function is torch.Tensor.float:
            return torch.Tensor.double(*args)
        if named.get("dtype") is torch.float32 or (function in _MAKERS and "dtype" not in named):
            named["dtype"] = torch.float64
        return function(*args, **named)
