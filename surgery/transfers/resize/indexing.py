"""timm.layers.interpolate in the way that today's torch wants it, with the same values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ListsIndexAsTuples(TorchFunctionMode):
    """A context in which ``x[[i, j]]`` of index tensors is ``x[i, j]``.

    timm's interpolator writes it so; torch has announced another meaning of it, and warns. It
    also warns of a search for values that are not contiguous.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], tuple(args[1]))
        elif function is torch.bucketize:
            args = (args[0].contiguous(), *args[1:])
        return function(*args, **(kwargs or {}))
