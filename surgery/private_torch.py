"""Torch's private names, each with what stops working where it goes; their test notices.

What stands elsewhere under a leading underscore is a text (a class name in a pickle), never one
of torch's attributes. Timm's private names are not used at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._python_dispatch
import torch.utils._pytree
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import _default_to_fused_or_foreach

# Without these an optimizer of many small tensors steps one after the other.
foreach_add_ = torch._foreach_add_
foreach_addcmul_ = torch._foreach_addcmul_
foreach_div = torch._foreach_div
foreach_div_ = torch._foreach_div_
foreach_lerp_ = torch._foreach_lerp_
foreach_mul = torch._foreach_mul
foreach_mul_ = torch._foreach_mul_
foreach_norm = torch._foreach_norm
foreach_sqrt = torch._foreach_sqrt

# Without it no initial value can be left out: every tensor of a model would be filled.
Operator = torch._ops.OpOverload
DispatchMode = torch.utils._python_dispatch.TorchDispatchMode

# Without it tensors that wrap others (quantised, distributed) are copied as if they were plain.
is_wrapper = torch.utils._python_dispatch.is_traceable_wrapper_subclass

# Without it tensors inside lists and dicts of arguments, or of an optimizer's state, are not seen.
tree_leaves = torch.utils._pytree.tree_leaves

#: Methods of a tensor that hand its memory to somebody who reads without operations. Without one
#: of them a reader may find memory that has not been filled.
TO_MEMORY = frozenset(
    {
        "__array__",
        "__deepcopy__",
        "__dlpack__",
        "__reduce_ex__",
        "_typed_storage",
        "data_ptr",
        "numpy",
        "storage",
        "tolist",
        "untyped_storage",
    }
)


def memory_of(tensor: torch.Tensor) -> int:
    """Which memory a tensor shows; views share it. An address would change with its size."""
    return int(tensor.untyped_storage()._cdata)


def writes_to_itself(operator: Operator) -> bool:
    """Whether it writes values into its first argument, and leaves the shape as it is:
    ``normal_``, not ``resize_``, ``t_`` or ``unsqueeze_``.
    """
    schema = operator._schema
    first = next(iter(schema.arguments), None)
    return (
        first is not None
        and first.name == "self"
        and bool(first.alias_info and first.alias_info.is_write)
        and schema.name.endswith("_")
        and schema.name != "aten::resize_"
        and torch.Tag.inplace_view not in operator.tags
    )


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own parameters by name, None for one that it was made without.

    Without it a parametrised weight would be computed on the way, and a layer not be rebuilt.
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """The module's own buffers by name."""
    return module._buffers


def set_own(
    module: nn.Module,
    parameters: dict[str, nn.Parameter | None],
    buffers: dict[str, torch.Tensor | None],
) -> None:
    """Give a shallow copy parameters and buffers of its own; it shares its hooks as it did."""
    vars(module).update(_parameters=parameters, _buffers=buffers)


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """What runs before and after the module's forward. Without it a person's hooks would run."""
    return module._forward_pre_hooks, module._forward_hooks


def metadata_of(state: Mapping[str, Any]) -> Any:
    """What torch notes in a module's state dict beside it: versions by path. None elsewhere."""
    return getattr(state, "_metadata", None)


def set_metadata(state: OrderedDict[str, Any], metadata: Any) -> None:
    """Note it as torch does. Without it layers that changed their format are loaded wrongly."""
    state._metadata = metadata  # type: ignore[attr-defined]


def synchronised_by(wrapper: DistributedDataParallel) -> list[torch.Tensor]:
    """The parameters that the reducer collected. Nothing else in torch says it; it costs the
    memory of the gradients for a moment. Without it replicas could drift apart unnoticed.
    """
    buckets = wrapper.reducer._get_zeros_like_grad_buckets()
    return [parameter for bucket in buckets for parameter in bucket.parameters()]


def takes_foreach(parameters: list[torch.Tensor]) -> bool:
    """Torch's own choice between many tensors at once and one after the other."""
    return _default_to_fused_or_foreach(parameters, differentiable=False, use_fused=False)[1]


def adam_members(
    optimizer: torch.optim.Adam, group: dict[str, Any]
) -> list[tuple[torch.Tensor, ...]]:
    """(parameter, gradient, both moments, count of steps) of all that have a gradient.

    States start here. Without it an optimizer with Adam's moments would have to make them anew.
    """
    columns: list[list[torch.Tensor]] = [[] for _ in range(6)]
    optimizer._init_group(group, *columns)  # type: ignore[no-untyped-call]
    parameters, gradients, means, squares, _, steps = columns
    return list(zip(parameters, gradients, means, squares, steps, strict=True))
