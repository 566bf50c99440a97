"""How many bytes an optimizer will keep for a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from surgery.private_torch import tree_leaves
from surgery.specs import TensorSpec
from surgery.tuning.optimizer_names import OptimizerChoice

#: Kernels to leave out of the measurement: they keep the same state and need a real device.
_KERNELS = ("foreach", "fused", "capturable", "compile")

#: Raised by a step on the meta device that reads a value, and by one that wants a closure or
#: another kind of gradient.
STEP_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError)


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
    try:
        sizes = {
            (shape, dtype): _nbytes(
                first_state(choice, {**base, **hyper}, shape, getattr(torch, dtype), "meta")
            )
            for shape, dtype in kinds
        }
    except STEP_ERRORS:
        return None
    return sum(sizes[tensor.shape, tensor.dtype] for tensor in tensors)


def first_state(
    choice: OptimizerChoice,
    keys: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
) -> Mapping[str, Any]:
    """What an optimizer with these keys keeps for one parameter after its first step.

    Raises one of STEP_ERRORS where the step cannot be taken.
    """
    values = torch.zeros(shape, dtype=dtype, device=device)
    parameter = torch.nn.Parameter(values)
    parameter.grad = torch.zeros_like(values)
    accepted = choice.accepted - {"params", *_KERNELS}
    optimizer = choice.build(
        [{"params": [parameter]}], **{key: keys[key] for key in keys if key in accepted}
    )
    optimizer.step()
    state: Mapping[str, Any] = optimizer.state[parameter]
    return state


def _nbytes(state: Mapping[str, Any]) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))
