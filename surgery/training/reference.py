"""Torch's own scheduler on an optimizer of one group whose learning rate is 1.

What every real group gets is its own learning rate times the one here. So ratios between groups
hold however small they are, nothing of a schedule is written again, and its state is that of
one torch scheduler.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

from surgery.training.durations import warmup_units
from surgery.tuning.schedule_line import ScheduleLine

#: What torch's schedulers change while they run; everything else they have is in the line.
_MOVING = (
    "last_epoch",
    "_step_count",
    "_last_lr",
    "T_cur",
    "T_i",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
)

_TORCH_NAMES = {
    "CosineAnnealingLR": {"floor": "eta_min"},
    "CosineAnnealingWarmRestarts": {"floor": "eta_min"},
    "ReduceLROnPlateau": {"floor": "min_lr"},
}

_FIXED: Mapping[str, dict[str, Any]] = {
    "OneCycleLR": {"max_lr": 1.0},
    # The default of 1e-8 is an absolute learning rate, below which nothing is reduced.
    "ReduceLROnPlateau": {"eps": 0.0},
}


class Reference:
    """Where a schedule stands: ``factor`` is its learning rate, ``momentum`` is OneCycle's.

    Every duration of its line is a number.
    """

    def __init__(self, line: ScheduleLine) -> None:
        optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)
        names = _TORCH_NAMES.get(line.kind, {})
        settings = {names.get(key, key): value for key, value in line.settings}
        settings |= _FIXED.get(line.kind, {})
        self._optimizer = optimizer
        self._main = getattr(schedulers, line.kind)(optimizer, **settings)
        self._warmup = self._sequence = None
        if line.warmup is not None:
            units = warmup_units(line)
            self._warmup = schedulers.LinearLR(optimizer, line.warmup_from, total_iters=units)
            # Torch refuses to make a sequence with a plateau.
            if not isinstance(self._main, schedulers.ReduceLROnPlateau):
                parts = [self._warmup, self._main]
                self._sequence = schedulers.SequentialLR(optimizer, parts, milestones=[units])
        # Torch warns unless the optimizer has stepped before; without gradients this does nothing.
        optimizer.step()

    @property
    def factor(self) -> float:
        """The share of its own learning rate that every group has now."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def momentum(self) -> float | None:
        """The momentum, or first beta, that groups have now; None where it is not cycled."""
        if not getattr(self._main, "cycle_momentum", False):
            return None
        return float(self._optimizer.param_groups[0]["momentum"])

    def advance(self, metric: float | None = None) -> None:
        """One unit on. A plateau needs the metric, which does not count during warm-up."""
        if self._sequence is not None:
            self._sequence.step()
            return
        if self._warmup is not None:
            self._warmup.step()
            if self._warmup.last_epoch <= self._warmup.total_iters:
                return
        self._main.step(metric)

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of them, whatever scheduler it is."""
        group = self._optimizer.param_groups[0]
        return {
            "lr": group["lr"],
            "momentum": group["momentum"],
            "schedulers": [
                {key: vars(scheduler)[key] for key in _MOVING if key in vars(scheduler)}
                for scheduler in self._schedulers
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where another one of the same line stood; ``has_form`` comes before."""
        group = self._optimizer.param_groups[0]
        group.update(lr=state["lr"], momentum=state["momentum"])
        for scheduler, moving in zip(self._schedulers, state["schedulers"], strict=True):
            vars(scheduler).update(moving)

    @property
    def _schedulers(self) -> tuple[Any, ...]:
        one_of_each = (self._main, self._warmup, self._sequence)
        return tuple(scheduler for scheduler in one_of_each if scheduler is not None)


def has_form(found: object, form: object) -> bool:
    """Whether a state has the keys, lengths and kinds of values of a schedule that starts.

    Numbers are finite, and whole where those of the form are; text is the same text. A plateau's
    best metric is infinite before any metric.
    """
    if isinstance(form, Mapping):
        return (
            isinstance(found, Mapping)
            and found.keys() == form.keys()
            and all(has_form(found[key], form[key]) for key in form)
        )
    if isinstance(form, list):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(form)
            and all(map(has_form, found, form))
        )
    if isinstance(form, str):
        return found == form
    kinds = int if isinstance(form, int) else (int, float)
    if not isinstance(found, kinds) or isinstance(found, bool):
        return False
    return found == form or abs(found) <= sys.float_info.max
