"""A schedule line and the length of a run to a line in which every duration is a number."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from surgery.errors import Problem, RuleError, TrainingError
from surgery.tuning.schedule_line import Epochs, ScheduleLine

#: The duration that is the rest of the run where nobody gives it.
_REST = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}


@dataclass(frozen=True, slots=True)
class RunLength:
    """How long a run is, as far as the caller said; positive whole numbers."""

    epochs: int | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise TrainingError(f"{name}: expected a whole number from 1, found {value!r}")

    def units(self, line: ScheduleLine) -> int | None:
        """The run in the unit of the schedule; None where the caller said too little."""
        if line.by == "epoch" or self.epochs is None:
            return self.epochs
        return self.epochs * self.steps_per_epoch if self.steps_per_epoch else None


def count_durations(line: ScheduleLine, run: RunLength) -> ScheduleLine:
    """The line with every duration counted in its own unit, the missing ones from the run.

    Raises RuleError, with the line, where the run's length is needed and was not given, or is
    at odds with the schedule's.
    """
    warmup = _counted("warmup", line.warmup, line, run)
    settings = {key: _counted(key, value, line, run) for key, value in line.settings}
    rest = _REST.get(line.kind)
    if rest and rest not in settings:
        settings[rest] = _rest_of_run(rest, warmup or 0, line, run)
    counted = replace(line, settings=tuple(settings.items()), warmup=warmup)
    for message in _contradictions(counted, settings, run.units(line)):
        raise refused(line, message)
    return counted


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


def _counted(key: str, value: Any, line: ScheduleLine, run: RunLength) -> Any:
    """The value with its epochs, if any, in the unit of the line."""
    if isinstance(value, tuple):
        return tuple(_counted(key, one, line, run) for one in value)
    if not isinstance(value, Epochs):
        return value
    if line.by == "epoch":
        return value.count
    if run.steps_per_epoch is None:
        raise refused(line, f"{key}={value} by=step needs steps_per_epoch= in the call")
    return value.count * run.steps_per_epoch


def _rest_of_run(key: str, warmup: int, line: ScheduleLine, run: RunLength) -> int:
    units = run.units(line)
    if units is None:
        lengths = "epochs=" if line.by == "epoch" else "epochs= and steps_per_epoch="
        raise refused(line, f"{line.kind} needs {key}= here, or {lengths} in the call")
    if units <= warmup:
        raise refused(line, f"a warm-up of {warmup} leaves nothing of the run's {units} {line.by}s")
    return units - warmup


def _contradictions(
    line: ScheduleLine, settings: Mapping[str, Any], units: int | None
) -> Iterator[str]:
    last = last_unit(line)
    if last is not None and units is not None and units > last:
        yield f"OneCycleLR is over after {last} {line.by}s, and the run has {units}"
    if last is not None and settings.get("pct_start", 0.3) * settings["total_steps"] == 1:
        # torch interpolates over the rise's length less one.
        yield (
            f"OneCycleLR cannot rise in one {line.by}: pct_start * total_steps is 1, "
            "take a little more or less"
        )
    gamma = settings.get("gamma", 0.1)
    times = _multiplications(line.kind, settings, max((units or 0) - warmup_units(line), 0))
    if times * math.log(gamma) > math.log(sys.float_info.max):
        yield f"gamma={gamma:g} overflows in this run, which multiplies by it {times} times"


def _multiplications(kind: str, settings: Mapping[str, Any], units: int) -> int:
    """How often the learning rates are multiplied by gamma within so many units."""
    if kind == "StepLR":
        return units // int(settings["step_size"])
    if kind == "MultiStepLR":
        return sum(milestone <= units for milestone in settings["milestones"])
    return units if kind == "ExponentialLR" else 0
