"""How many bytes an optimizer will keep for a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from surgery.private_torch import tree_leaves
from surgery.specs import TensorSpec
from surgery.tuning.optimizer_names import OptimizerChoice

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
    kinds = dict.fromkeys((tensor.shape, tensor.dtype) for tensor in tensors)
    base, hyper = _without_kernels(base), _without_kernels(hyper)
    try:
        sizes = {kind: _one_step(choice, base, hyper, *kind) for kind in kinds}
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
    values = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    parameter = torch.nn.Parameter(values)
    parameter.grad = torch.empty_like(values)
    optimizer = choice.build([{"params": [parameter], **hyper}], **base)
    optimizer.step()
    kept = (leaf for leaf in tree_leaves(optimizer.state[parameter]))
    return sum(leaf.nbytes for leaf in kept if isinstance(leaf, torch.Tensor))


def _without_kernels(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in KERNELS}
