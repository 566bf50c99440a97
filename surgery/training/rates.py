"""The rates of an optimizer's groups, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def group_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Group name to rate, in the optimizer's order.

    Groups that :func:`surgery.build_optimizer` did not make are called by their position
    (``group 0``), and so is one whose name an earlier group has.
    """
    rates: dict[str, float] = {}
    for index, group in enumerate(optimizer.param_groups):
        name = group.get("name", "")
        free = name if name and name not in rates else f"group {index}"
        rates[free] = float(group["lr"])
    return rates


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Write a rate into a group; one that is a tensor keeps its identity, as in torch."""
    if hasattr(group["lr"], "fill_"):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
