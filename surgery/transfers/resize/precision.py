"""timm's resampling functions in the precision of the weights, and as today's torch wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Functions that make numbers of Python's floats, and their dtype unless they are told another.
_DEFAULT = dict.fromkeys((torch.tensor, torch.arange, torch.linspace), torch.float32)


class TimmFunctions(TorchFunctionMode):
    """A context in which float64 weights are computed with in float64 where ``wide`` says so.

    timm's functions call ``.float()``, or ask for ``dtype=torch.float32``. Its interpolator of
    tables also indexes with lists of tensors, of which torch has announced another meaning, and
    searches for values that are not contiguous; torch would warn of both.
    """

    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], tuple(args[1]))
        elif function is torch.bucketize:
            args = (args[0].contiguous(), *args[1:])
        elif self.wide and function is torch.Tensor.float:
            function = torch.Tensor.double
        elif self.wide and named.get("dtype", _DEFAULT.get(function)) is torch.float32:
            named["dtype"] = torch.float64
        return function(*args, **named)
