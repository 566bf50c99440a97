"""A network without memory: its modules can be entered and changed, and nothing is computed."""

from __future__ import annotations

import copy

import torch
from torch import nn


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that costs no memory: ``deepcopy`` is given a stand-in for each tensor,
    of the same shape, on the meta device. Raises whatever a model raises that cannot be copied.
    """
    memo: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        data = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
