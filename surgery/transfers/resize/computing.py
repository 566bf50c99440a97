"""A resized step and its source's values -> the target's values, once they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from surgery.checkpoint.writing.values import Computed, Values
from surgery.specs import TensorSpec
from surgery.transfers.recipe_tensors import whole
from surgery.transfers.resize import resizer_called
from surgery.transfers.step import Method, Step
from surgery.wording import shape_text


def resized(step: Step, method: Method, source: Values, initial: Values | None = None) -> Values:
    """The values of ``step.target``: in float64 where the source or the target is, else float32.

    ``initial`` are the target's own values, needed where the method keeps some of them. Raises
    :class:`~surgery.errors.SurgeryError` for a method that there is not.
    """
    compute, shape = resizer_called(method.name).compute, step.target.shape
    if compute is None:
        return source
    wide = "float64" in {step.target.dtype, TensorSpec.of("", source).dtype}
    dtype = "float64" if wide else "float32"

    def pieces() -> Iterator[torch.Tensor]:
        with torch.no_grad():
            values = whole(source, dtype).cpu()
            # The method may write to it, and it may be the model's own memory.
            own = (
                values.new_empty(shape) if initial is None else whole(initial, dtype).cpu().clone()
            )
            with _TimmFunctions(wide=wide):
                result = compute(values, own, dict(method.settings))
        assert tuple(result.shape) == shape, (
            f"{method.name} made {tuple(result.shape)}, expected {shape_text(shape)}"
        )
        yield result.contiguous().reshape(-1)

    return Computed(shape, dtype, pieces)


#: Functions that make numbers of Python's floats, and their dtype unless they are told another.
_DEFAULT = dict.fromkeys((torch.tensor, torch.arange, torch.linspace), torch.float32)


class _TimmFunctions(TorchFunctionMode):
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
