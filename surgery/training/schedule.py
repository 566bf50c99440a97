"""``build_schedule``: the schedule line of a rules file onto a real optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.errors import Problem, RuleError
from surgery.training.durations import RunLength, settle_durations
from surgery.tuning import Rules, parse_rules, read_rules
from surgery.tuning.rules import RulesSource
from surgery.tuning.schedule_line import ScheduleLine

if TYPE_CHECKING:
    import torch

    from surgery.training.scheduler import Schedule


def build_schedule(
    optimizer: torch.optim.Optimizer,
    schedule: RulesSource | ScheduleLine,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """The schedule of a rules file on an optimizer: call ``step()`` once an epoch, or step.

    ``schedule`` is a rules file (its path, text or :class:`Rules`), the text of a schedule line
    alone, or one that was read. ``epochs`` and ``steps_per_epoch`` are the run's length, needed
    where the line leaves a duration open. Every group's present rate is its own rate, which the
    schedule multiplies; none of them has to be given again.

    Raises :class:`~surgery.errors.RuleError`, with file and line, before anything is changed.

    >>> schedule = surgery.build_schedule(optimizer, "schedule cosine floor=0.01", epochs=30)
    >>> for epoch in range(30):
    ...     train(model, optimizer)
    ...     schedule.step()
    """
    from surgery.training.scheduler import PlateauSchedule, Schedule

    line = settle_durations(find_line(schedule), RunLength(epochs, steps_per_epoch))
    kind = PlateauSchedule if line.kind == "ReduceLROnPlateau" else Schedule
    return kind(optimizer, line)


def find_line(schedule: RulesSource | ScheduleLine) -> ScheduleLine:
    """The one schedule line in what the caller gave; RuleError where there is none."""
    if isinstance(schedule, ScheduleLine):
        return schedule
    rules = _read(schedule)
    if rules.schedule is None:
        hint = "write one, as in `schedule cosine floor=0.01`"
        raise RuleError(rules.path, [Problem(0, f"there is no schedule line: {hint}")])
    return rules.schedule


def _read(schedule: RulesSource) -> Rules:
    # `schedule cosine` alone has nothing by which text differs from a file's name.
    if isinstance(schedule, str) and schedule.split()[:1] == ["schedule"]:
        return parse_rules(schedule)
    return read_rules(schedule)
