"""What an optimizer keeps for each parameter, and how saved values come there."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from surgery.tuning.optimizer_choice import STEP_ERRORS, find_optimizer

#: The values that an optimizer keeps, by key. Tensors have no values, and are on the meta device
#: where they lie on their parameter's, else on the CPU.
Kept = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter in an optimizer, with the position of its group.

    ``kept`` is its state after a first step; None where only a real step could show it.
    """

    name: str
    parameter: nn.Parameter
    group: int
    kept: Kept | None


def parameter_slots(
    kind: type[torch.optim.Optimizer], groups: Sequence[Mapping[str, Any]], names: Iterable[str]
) -> tuple[Slot, ...]:
    """The parameters of groups, in their order, which is that of the names.

    What is kept for them is measured once for each group, shape and dtype: the same class takes one
    step with the group's own settings, on the meta device or, where it reads values (Adafactor), on
    the CPU. So momentum that is off, amsgrad, and factored moments come out right, for optimizers
    of other libraries as well.
    """
    measured: dict[object, Kept | None] = {}
    slots, left = [], iter(names)
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            case = (index, tuple(parameter.shape), parameter.dtype)
            if case not in measured:
                measured[case] = _measured(kind, group, *case[1:])
            slots.append(Slot(next(left), parameter, index, measured[case]))
    return tuple(slots)


def _measured(
    kind: type[torch.optim.Optimizer],
    group: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Kept | None:
    choice = find_optimizer(kind)
    with suppress(*STEP_ERRORS):
        return choice.first_state(group, shape, dtype, "meta")
    with suppress(*STEP_ERRORS):
        state = choice.first_state(group, shape, dtype, "cpu")
        # On the CPU it cannot be seen what follows a parameter: everything does but the count.
        return {
            key: value.to("meta") if isinstance(value, torch.Tensor) and key != "step" else value
            for key, value in state.items()
        }
    return None


def misfit(entry: Mapping[str, Any], kept: Kept | None) -> str:
    """The first saved value that has another shape than what is kept; empty without one."""
    for key, own in (kept or {}).items():
        if isinstance(own, torch.Tensor) and key in entry:
            found = shape_of(entry[key])
            if found != tuple(own.shape):
                return f"{key} was {found} and is to be {tuple(own.shape)}"
    return ""


def shape_of(value: Any) -> tuple[int, ...] | None:
    """A number is a tensor without dimensions: older Adams counted steps so. None for others."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return () if isinstance(value, int | float) else None


def write_states(
    optimizer: torch.optim.Optimizer,
    slots: Sequence[Slot],
    entries: Mapping[str, Mapping[str, Any]],
) -> None:
    """Give every parameter a copy of its entry, and those without one no state."""
    states: dict[torch.Tensor, dict[str, Any]] = {
        slot.parameter: {
            key: _placed(value, key, slot, optimizer.param_groups[slot.group])
            for key, value in entries[slot.name].items()
        }
        for slot in slots
        if slot.name in entries
    }
    for slot in slots:
        optimizer.state.pop(slot.parameter, None)
    optimizer.state.update(states)


def _placed(value: Any, key: str, slot: Slot, group: Mapping[str, Any]) -> Any:
    """A copy of ``value`` where the parameter's optimizer wants it, the bits unchanged.

    On the parameter's device or, as counts of steps, on the CPU unless the group's kernels read
    it; a value of the parameter's shape in its memory format. The dtype is the saved one's,
    unless the optimizer keeps another for this parameter.
    """
    own = (slot.kept or {}).get(key)
    if isinstance(own, torch.Tensor) and isinstance(value, int | float):
        value = torch.tensor(value)
    if not isinstance(value, torch.Tensor):
        return copy.deepcopy(value)
    dtype, follows = value.dtype, key != "step"
    if isinstance(own, torch.Tensor):
        dtype, follows = own.dtype, own.is_meta
    if group.get("capturable") or group.get("fused"):
        follows = True
    device = slot.parameter.device if follows else torch.device("cpu")
    if value.shape == slot.parameter.shape:
        placed = torch.empty_like(slot.parameter, dtype=dtype, device=device)
        return placed.detach().copy_(value)
    return value.detach().to(device, dtype, copy=True)
