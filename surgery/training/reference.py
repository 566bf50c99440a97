"""Torch's own scheduler on an optimizer of one group whose rate is 1.

What every real group gets is its own rate times the rate here. So ratios between groups hold
however small the rates are, nothing of a schedule is written again, and its state is that of
one torch scheduler.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

from surgery.errors import StateRefused
from surgery.training.durations import warmup_units
from surgery.tuning.schedule_line import ScheduleLine

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

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
    # The default of 1e-8 is an absolute rate, below which nothing is reduced.
    "ReduceLROnPlateau": {"eps": 0.0},
}


class Reference:
    """Where a settled schedule stands: ``factor`` is its rate, ``momentum`` is OneCycle's."""

    def __init__(self, line: ScheduleLine) -> None:
        self._optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)
        self._main = _torch_scheduler(line, self._optimizer)
        self._warmup = _warmup(line, self._optimizer)
        self._sequence = _sequence(line, self._optimizer, self._warmup, self._main)
        # Torch warns unless the optimizer has stepped before; without gradients this does nothing.
        self._optimizer.step()

    @property
    def factor(self) -> float:
        """The share of its own rate that every group has now."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def momentum(self) -> float | None:
        """The momentum, or first beta, that groups have now; None where it is not cycled."""
        if not getattr(self._main, "cycle_momentum", False):
            return None
        return float(self._optimizer.param_groups[0]["momentum"])

    @property
    def restarts(self) -> bool:
        """Whether a cycle of SGDR starts here, and not the first."""
        return getattr(self._main, "T_cur", None) == 0 and self._main.last_epoch > 0

    def advance(self, metric: float | None = None) -> None:
        """One unit on. A plateau needs the metric, which does not count during warm-up."""
        if self._sequence is not None:
            self._sequence.step()
        elif not self._warms_up_further():
            self._main.step(metric)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of them, whatever scheduler it is."""
        group = self._optimizer.param_groups[0]
        return {
            "lr": group["lr"],
            "momentum": group["momentum"],
            "schedulers": [_moving(scheduler) for scheduler in self._schedulers],
        }

    def check_state(self, state: object, position: int) -> None:
        """StateRefused unless this is what one of the same line has at a position."""
        mine = self.state_dict()
        if not (isinstance(state, Mapping) and _alike(state, mine)):
            raise StateRefused("the saved schedule's reference is damaged, or another version's")
        counted = state["schedulers"][-1]["last_epoch"]  # The outermost one counts every unit.
        if counted != position:
            raise StateRefused(
                f"the saved schedule is at position {position} and its reference at {counted}"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where another one of the same line stood; ``check_state`` comes before."""
        group = self._optimizer.param_groups[0]
        group.update(lr=state["lr"], momentum=state["momentum"])
        for scheduler, moving in zip(self._schedulers, state["schedulers"], strict=True):
            vars(scheduler).update(moving)

    def _warms_up_further(self) -> bool:
        """One unit on with the warm-up before a plateau, where there is one that is not over."""
        if self._warmup is None:
            return False
        self._warmup.step()
        return bool(self._warmup.last_epoch <= self._warmup.total_iters)

    @property
    def _schedulers(self) -> tuple[LRScheduler, ...]:
        one_of_each = (self._main, self._warmup, self._sequence)
        return tuple(scheduler for scheduler in one_of_each if scheduler is not None)


def _torch_scheduler(line: ScheduleLine, optimizer: SGD) -> LRScheduler:
    names = _TORCH_NAMES.get(line.kind, {})
    arguments = {names.get(key, key): value for key, value in line.settings}
    scheduler_class = getattr(schedulers, line.kind)
    built: LRScheduler = scheduler_class(optimizer, **arguments, **_FIXED.get(line.kind, {}))
    return built


def _warmup(line: ScheduleLine, optimizer: SGD) -> schedulers.LinearLR | None:
    if line.warmup is None:
        return None
    return schedulers.LinearLR(optimizer, line.warmup_from, total_iters=warmup_units(line))


def _sequence(
    line: ScheduleLine,
    optimizer: SGD,
    warmup: schedulers.LinearLR | None,
    main: LRScheduler,
) -> schedulers.SequentialLR | None:
    """Torch's own sequence of warm-up and schedule, which it refuses to make with a plateau."""
    if warmup is None or isinstance(main, schedulers.ReduceLROnPlateau):
        return None
    return schedulers.SequentialLR(optimizer, [warmup, main], milestones=[warmup_units(line)])


def _alike(found: object, mine: object, key: str = "") -> bool:
    """Whether a value has the keys, the lengths and the kinds of finite number that mine has.

    A plateau's ``best`` alone may be infinite, as it is before the first metric.
    """
    if isinstance(mine, dict):
        if not isinstance(found, Mapping) or found.keys() != mine.keys():
            return False
        return all(_alike(found[key], mine[key], key) for key in mine)
    if isinstance(mine, list):
        if not isinstance(found, (list, tuple)) or len(found) != len(mine):
            return False
        return all(_alike(one, other) for one, other in zip(found, mine, strict=True))
    kinds = int if isinstance(mine, int) else (int, float)
    if not isinstance(found, kinds) or isinstance(found, bool):
        return False
    limit = math.inf if key == "best" else sys.float_info.max
    return bool(abs(found) <= limit)


def _moving(scheduler: Any) -> dict[str, Any]:
    state = vars(scheduler)
    return {key: state[key] for key in _MOVING if key in state}
