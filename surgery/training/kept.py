"""What an optimizer keeps for a parameter: the keys, shapes and dtypes of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.tuning.optimizer_names import find_optimizer
from surgery.tuning.state_size import KERNELS

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """A tensor of a state. ``follows`` says that it lies on its parameter's device."""

    shape: tuple[int, ...]
    dtype: str
    follows: bool


#: By key, None where the value is no tensor.
Kept = Mapping[str, KeptTensor | None]


#: Raised by a step on the meta device that reads a value, and by one that wants a closure or
#: another kind of gradient.
_STEP_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError)


class KeptStates:
    """What one optimizer keeps, asked once for each group, shape and dtype.

    Measured, as in :mod:`surgery.tuning.state_size`: the same class takes one step with the
    group's own settings, on the meta device or, where it reads values (Adafactor), on the CPU.
    So momentum that is off, amsgrad, and factored moments come out right, for optimizers of
    other libraries as well.
    """

    def __init__(
        self, kind: type[torch.optim.Optimizer], groups: Sequence[Mapping[str, Any]]
    ) -> None:
        self._kind = kind
        self._groups = groups
        self._known: dict[object, Kept | None] = {}

    def of(self, parameter: nn.Parameter, group: int) -> Kept | None:
        """The state after a first step; None where the optimizer cannot be asked."""
        case = (group, tuple(parameter.shape), parameter.dtype)
        if case not in self._known:
            self._known[case] = self._ask(parameter, self._groups[group])
        return self._known[case]

    def _ask(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> Kept | None:
        for device in ("meta", "cpu"):
            with suppress(*_STEP_ERRORS):
                return _after_one_step(self._kind, parameter, group, device)
        return None


def _after_one_step(
    kind: type[torch.optim.Optimizer],
    parameter: nn.Parameter,
    group: Mapping[str, Any],
    device: str,
) -> Kept:
    import torch

    choice = find_optimizer(kind)
    accepted = choice.accepted - {*KERNELS, "params"}
    keys = {key: value for key, value in group.items() if key in accepted}
    values = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device)
    probe = torch.nn.Parameter(values)
    probe.grad = torch.zeros_like(values)
    optimizer = choice.build([{"params": [probe]}], **keys)
    optimizer.step()
    return {key: _kept(key, value, device) for key, value in optimizer.state[probe].items()}


def _kept(key: str, value: object, device: str) -> KeptTensor | None:
    """On the CPU it cannot be seen what follows a parameter: everything does but the count."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    dtype = str(value.dtype).removeprefix("torch.")
    follows = value.is_meta if device == "meta" else key != "step"
    return KeptTensor(tuple(value.shape), dtype, follows)
