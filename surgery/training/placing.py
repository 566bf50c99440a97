"""One value of a state into the memory of the optimizer that goes on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.training.kept import Kept, KeptTensor

if TYPE_CHECKING:
    from torch import nn


def placed(
    value: Any, key: str, parameter: nn.Parameter, group: Mapping[str, Any], kept: Kept | None
) -> Any:
    """A copy of ``value`` where ``parameter``'s optimizer wants it, the bits unchanged.

    On the parameter's device or, as counts of steps, on the CPU unless the group's kernels read
    it; a value of the parameter's shape in its memory format. The dtype is the saved one's,
    unless the optimizer keeps another for this parameter.
    """
    import torch

    known = kept.get(key) if kept else None
    if known is not None and isinstance(value, int | float):
        value = torch.tensor(value)
    if not isinstance(value, torch.Tensor):
        return copy.deepcopy(value)
    dtype = getattr(torch, known.dtype) if known is not None else value.dtype
    device = parameter.device if _follows(key, known, group) else torch.device("cpu")
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=dtype, device=device).detach().copy_(value)
    return value.detach().to(device, dtype, copy=True)


def _follows(key: str, known: KeptTensor | None, group: Mapping[str, Any]) -> bool:
    if group.get("capturable") or group.get("fused"):
        return True
    return known.follows if known is not None else key != "step"
