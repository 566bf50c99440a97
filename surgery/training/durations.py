"""A schedule line and the length of a run to a line in which every duration is a number."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from surgery.errors import Problem, RuleError, TrainingError
from surgery.tuning.schedule_line import Epochs, ScheduleLine

#: The duration that is the rest of the run where nobody gives it.
_REST = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}


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
    warmup = counted("warmup", line.warmup)
    rest = _REST.get(line.kind)
    if rest and rest not in settings:
        settings[rest] = _rest_of_run(rest, warmup or 0, line, units)
    whole = replace(line, settings=tuple(settings.items()), warmup=warmup)
    for message in _contradictions(whole, settings, units):
        raise refused(line, message)
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


def _rest_of_run(key: str, warmup: int, line: ScheduleLine, units: int | None) -> int:
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
    gamma, stepped = settings.get("gamma", 0.1), max((units or 0) - warmup_units(line), 0)
    milestones = settings.get("milestones")
    times = len(milestones) if milestones else stepped // int(settings.get("step_size", 1))
    if times * math.log(gamma) > math.log(sys.float_info.max):
        yield f"gamma={gamma:g} overflows in this run, which multiplies by it {times} times"
