"""How many bytes an optimizer will keep for a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from surgery.specs import TensorSpec
from surgery.tuning.optimizer_names import OptimizerChoice

if TYPE_CHECKING:
    import torch

#: Kernels to leave out of the measurement: they keep the same state and need a real device.
KERNELS = ("foreach", "fused", "capturable", "compile")


def state_bytes(
    choice: OptimizerChoice,
    base: Mapping[str, Any],
    hyper: Mapping[str, Any],
    tensors: Iterable[TensorSpec],
) -> int | None:
    """Bytes of state after the first step, None where the optimizer cannot be asked.

    Measured rather than tabulated: the real optimizer takes one step on the meta device, where
    tensors have shapes and no values. So factored moments, a momentum that is off and the
    four bytes of Adam's step count come out right, for other libraries' optimizers as well.
    """
    tensors = tuple(tensors)
    shapes = dict.fromkeys((tensor.shape, tensor.dtype) for tensor in tensors)
    try:
        sizes = {shape: _one_step(choice, base, hyper, *shape) for shape in shapes}
    # Whatever reads a value back, wants a closure or another kind of gradient fails on meta.
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return None
    return sum(sizes[tensor.shape, tensor.dtype] for tensor in tensors)


def _one_step(
    choice: OptimizerChoice,
    base: Mapping[str, Any],
    hyper: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: str,
) -> int:
    import torch

    values = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    parameter = torch.nn.Parameter(values)
    parameter.grad = torch.empty_like(values)
    group = {"params": [parameter], **_without_kernels(hyper)}
    optimizer = choice.build([group], **_without_kernels(base))
    optimizer.step()
    state = optimizer.state[parameter]
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _without_kernels(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in KERNELS}


def _tensors(value: object) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
