"""A schedule line to torch's own scheduler, on an optimizer of one group whose rate is 1.

What every real group gets is its own learning rate times the one here. So ratios between groups
hold however small they are, nothing of a schedule is written again, and its state is that of
one torch scheduler.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

from surgery.errors import Problem, RuleError, TrainingError
from surgery.tuning.schedule_line import Epochs, ScheduleLine

#: The duration that is the rest of the run where nobody gives it.
_REST = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}

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

_FIXED: Mapping[str, dict[str, Any]] = {
    "OneCycleLR": {"max_lr": 1.0},
    # The default of 1e-8 is an absolute learning rate, below which nothing is reduced.
    "ReduceLROnPlateau": {"eps": 0.0},
}


def count_durations(
    line: ScheduleLine, epochs: int | None = None, steps_per_epoch: int | None = None
) -> ScheduleLine:
    """The line with every duration counted in its own unit, the missing ones from the run.

    Raises TrainingError for a length that is none, and RuleError, with the line, where the run's
    length is needed and was not given, or is at odds with the schedule's.
    """
    for name, length in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if length is not None and (type(length) is not int or length < 1):
            raise TrainingError(f"{name}: expected a whole number from 1, found {length!r}")
    per_epoch = 1 if line.by == "epoch" else steps_per_epoch
    units = epochs * per_epoch if epochs and per_epoch else None

    def counted(key: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(counted(key, one) for one in value)
        if not isinstance(value, Epochs):
            return value
        if per_epoch is None:
            raise refused(line, f"{key}={value} by=step needs steps_per_epoch= in the call")
        return value.count * per_epoch

    settings = {key: counted(key, value) for key, value in line.settings}
    warmup, rest = counted("warmup", line.warmup), _REST.get(line.kind)
    if rest and rest not in settings:
        if units is None:
            lengths = "epochs=" if line.by == "epoch" else "epochs= and steps_per_epoch="
            raise refused(line, f"{line.kind} needs {rest}= here, or {lengths} in the call")
        if units <= (warmup or 0):
            left = f"a warm-up of {warmup} leaves nothing of the run's {units} {line.by}s"
            raise refused(line, left)
        settings[rest] = units - (warmup or 0)
    whole = replace(line, warmup=warmup, settings=tuple(settings.items()))
    _refuse_contradictions(whole, units)
    return whole


def refused(line: ScheduleLine, message: str) -> RuleError:
    """The error for something wrong with a schedule, at its line."""
    return RuleError(line.path, [Problem(line.line, message)])


def last_unit(line: ScheduleLine) -> int | None:
    """The last unit that a schedule knows a learning rate for; None where it goes on for ever."""
    if line.kind != "OneCycleLR":
        return None
    total = dict(line.settings)["total_steps"]
    return int(total) + warmup_units(line)


def warmup_units(line: ScheduleLine) -> int:
    """Units of warm-up of a line whose durations are counted, 0 where it has none."""
    assert not isinstance(line.warmup, Epochs)
    return line.warmup or 0


def _refuse_contradictions(line: ScheduleLine, units: int | None) -> None:
    """Raise RuleError where the schedule cannot last, or not rise, for so many units."""
    last, settings = last_unit(line), dict(line.settings)
    if last is not None and units is not None and units > last:
        raise refused(line, f"OneCycleLR is over after {last} {line.by}s, and the run has {units}")
    if last is not None and settings.get("pct_start", 0.3) * settings["total_steps"] == 1:
        # torch interpolates over the rise's length less one.
        raise refused(
            line,
            f"OneCycleLR cannot rise in one {line.by}: pct_start * total_steps is 1, "
            "take a little more or less",
        )
    gamma, stepped = settings.get("gamma", 0.1), max((units or 0) - warmup_units(line), 0)
    milestones = settings.get("milestones")
    times = len(milestones) if milestones else stepped // int(settings.get("step_size", 1))
    if times * math.log(gamma) > math.log(sys.float_info.max):
        overflows = f"gamma={gamma:g} overflows in this run, which multiplies by it {times} times"
        raise refused(line, overflows)


class Reference:
    """Where a schedule stands: ``factor`` is its learning rate, ``momentum`` is OneCycle's.

    Every duration of its line is a number.
    """

    def __init__(self, line: ScheduleLine) -> None:
        optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)
        settings = {**dict(line.settings), **_FIXED.get(line.kind, {})}
        if "floor" in settings:
            floor = "min_lr" if line.kind == "ReduceLROnPlateau" else "eta_min"
            settings[floor] = settings.pop("floor")
        self._optimizer = optimizer
        self._main = getattr(schedulers, line.kind)(optimizer, **settings)
        #: The outermost one, which counts every unit, comes last.
        self._schedulers = [self._main]
        if line.warmup is not None:
            units = warmup_units(line)
            warmup = schedulers.LinearLR(optimizer, line.warmup_from, total_iters=units)
            self._schedulers.append(warmup)
            # Torch refuses to make a sequence with a plateau.
            if not isinstance(self._main, schedulers.ReduceLROnPlateau):
                sequence = schedulers.SequentialLR(optimizer, [warmup, self._main], [units])
                self._schedulers.append(sequence)
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
        outermost = self._schedulers[-1]
        if outermost is self._main:
            outermost.step(metric)
            return
        outermost.step()
        # A plateau is in no sequence: it starts to judge when the warm-up is over.
        if metric is not None and outermost.last_epoch > outermost.total_iters:
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
        """Stand where another one of the same line stood; the check of its form comes before."""
        group = self._optimizer.param_groups[0]
        group.update(lr=state["lr"], momentum=state["momentum"])
        for scheduler, moving in zip(self._schedulers, state["schedulers"], strict=True):
            vars(scheduler).update(moving)


def form_of(value: object) -> object:
    """The keys, lengths and types of a state, without its values."""
    if isinstance(value, Mapping):
        return {key: form_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [form_of(item) for item in value]
    return type(value)
