"""The learning rates of an optimizer's groups, and other single numbers of a training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import torch

from surgery.errors import TrainingError


def group_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Group name to learning rate, in the optimizer's order.

    Groups that :func:`surgery.build_optimizer` did not make are called by their position
    (``group 0``), and so is one whose name an earlier group has.
    """
    rates: dict[str, float] = {}
    for index, group in enumerate(optimizer.param_groups):
        name = group.get("name", "")
        free = name if name and name not in rates else f"group {index}"
        rates[free] = rate_of(group)
    return rates


def rate_of(group: Mapping[str, Any]) -> float:
    """A group's learning rate; NaN where the optimizer makes its own (Adafactor)."""
    return math.nan if group["lr"] is None else float(group["lr"])


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Write a learning rate into a group; one that is a tensor keeps its identity, as in torch."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def is_rate(value: object) -> bool:
    """Whether this is a number that can be a learning rate: finite, and not below 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= sys.float_info.max  # type: ignore[operator]


def scalar(what: str, value: Any) -> float:
    """A Python or NumPy number, or a tensor of one element; else a TrainingError naming ``what``.

    Reading a tensor on an accelerator waits until it is computed.
    """
    shape = tuple(getattr(value, "shape", ()))
    number = value.item() if hasattr(value, "item") and math.prod(shape) == 1 else value
    if isinstance(number, (bool, int, float)):
        return float(number)
    found = f"the shape {shape}" if shape and number is value else f"a {type(number).__name__}"
    raise TrainingError(f"{what}: expected one number, found {'None' if value is None else found}")
