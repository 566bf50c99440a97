"""A schedule over the groups of an optimizer, whose learning rates keep their ratios."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from surgery.errors import Problem, RuleError, StateRefused, TrainingError
from surgery.training.learning_rates import is_rate, rate_of, scalar, set_rate
from surgery.training.reference import (
    Reference,
    count_durations,
    form_of,
    last_unit,
    refused,
)
from surgery.tuning import read_rules
from surgery.tuning.rules import RulesSource
from surgery.tuning.schedule_line import ScheduleLine, Unit

#: The last schedule on each optimizer, the only one that meets groups which come later. Held
#: weakly: an optimizer does not keep alive a schedule that somebody has dropped.
_LATEST: weakref.WeakKeyDictionary[torch.optim.Optimizer, weakref.ref[Schedule]] = (
    weakref.WeakKeyDictionary()
)


def build_schedule(
    optimizer: torch.optim.Optimizer,
    schedule: RulesSource,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """The schedule of a rules file on an optimizer: call ``step()`` once an epoch, or step.

    ``schedule`` is a rules file (its path, text or :class:`~surgery.tuning.rules.Rules`), or the
    text of a schedule line alone. ``epochs`` and ``steps_per_epoch`` are the run's length, needed
    where the line leaves a duration open. Every group's present learning rate is its own, which
    the schedule multiplies.

    Raises :class:`~surgery.errors.RuleError`, with file and line, before anything is changed.

    >>> schedule = surgery.build_schedule(optimizer, "schedule cosine floor=0.01", epochs=30)
    >>> for epoch in range(30):
    ...     train(model, optimizer)
    ...     schedule.step()
    """
    line = count_durations(_find_line(schedule), epochs, steps_per_epoch)
    kind = PlateauSchedule if line.kind == "ReduceLROnPlateau" else Schedule
    return kind(optimizer, line)


def _find_line(schedule: RulesSource) -> ScheduleLine:
    """The one schedule line in what the caller gave; RuleError where there is none."""
    rules = read_rules(schedule)
    if rules.schedule is None:
        hint = "write one, as in `schedule cosine floor=0.01`"
        raise RuleError(rules.path, [Problem(0, f"there is no schedule line: {hint}")])
    return rules.schedule


class Schedule(LRScheduler):
    """A schedule of torch's over groups that keep their ratios: ``lr = base_lr * factor``.

    It is one of torch's schedulers: return it from Lightning's ``configure_optimizers`` (its
    ``by`` is the ``interval``), or pass it in ``Trainer(optimizers=...)``, which steps it after
    each optimizer step and so wants ``by=step``.

    ``base_lrs`` are the groups' own learning rates. A group that ``add_param_group`` brings
    later is met before the optimizer's next step, and has its own learning rate times the factor
    from then on. An earlier schedule on the same optimizer no longer meets them.

    Raises TrainingError for groups whose learning rates are not finite or are below 0. A
    learning rate of 0 is a group that stands still, whatever the factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, line: ScheduleLine) -> None:
        self.line = line
        self._reference = Reference(line)
        groups = optimizer.param_groups
        has_momentum = any("betas" in group or "momentum" in group for group in groups)
        if self._reference.momentum is not None and not has_momentum:
            name = type(optimizer).__name__
            cycles = f"OneCycleLR cycles a momentum, and {name} has none: cycle_momentum=false"
            raise refused(line, cycles)
        own = [rate_of(group) for group in groups]
        _check_rates(own)
        for group, rate in zip(groups, own, strict=True):
            # A schedule before this one may have left another here, and torch would take it.
            group["initial_lr"] = rate
        # Named, not super(): a plateau has the other ancestor in between, for its name alone.
        LRScheduler.__init__(self, optimizer)
        if optimizer not in _LATEST:
            optimizer.register_step_pre_hook(_adopt_new_groups)
        _LATEST[optimizer] = weakref.ref(self)

    @property
    def by(self) -> Unit:
        """What one call of ``step`` stands for, ``"epoch"`` or ``"step"``."""
        return self.line.by

    @property
    def factor(self) -> float:
        """The share of its own learning rate that every group has now."""
        return self._reference.factor

    def get_lr(self) -> list[float | torch.Tensor]:
        """Every group's learning rate now."""
        return [float(rate) * self.factor for rate in self.base_lrs]

    def step(self, metrics: SupportsFloat | None = None) -> None:
        """One unit on. ``metrics``, torch's name for one number, is for ReduceLROnPlateau alone.

        That one needs it, and others refuse it; what is refused leaves the schedule where it is.
        """
        if not self._is_initial:
            metric = self._metric(metrics)
            last = last_unit(self.line)
            if last is not None and self.last_epoch >= last:
                over = f"is over after {last} {self.by}s, and was stepped once more"
                raise refused(self.line, f"{self.line.kind} {over}")
            self._adopt_new_groups()
            self._reference.advance(metric)
        LRScheduler.step(self)
        self._write_momentum(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, and ``base_lrs``: numbers, text, lists and dicts."""
        return {
            "schedule": self.line.canonical,
            "position": self.last_epoch,
            "base_lrs": [float(rate) for rate in self.base_lrs],
            "reference": self._reference.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stopped; every group's learning rate is written at once.

        ``{**state, "base_lrs": schedule.base_lrs}`` is the position alone, for other groups.
        Raises :class:`~surgery.errors.StateRefused`, and changes nothing, for the state of another
        schedule or of another number of groups, and for one that is damaged.
        """
        self._check_state(state)
        self._reference.load_state_dict(state["reference"])
        self.last_epoch = state["position"]
        self._step_count = state["position"] + 1
        self._write_rates([float(rate) for rate in state["base_lrs"]])

    def _metric(self, metrics: SupportsFloat | None) -> float | None:
        """The one number in what ``step`` was given; None where this schedule goes by none."""
        if isinstance(self, ReduceLROnPlateau) == (metrics is None):
            takes = (
                "goes by a metric: step(metric)" if metrics is None else "takes no metric: step()"
            )
            raise TrainingError(f"{self.line.kind} {takes}, found step({metrics!r})")
        metric = None if metrics is None else scalar("the metric of step", metrics)
        if metric is not None and math.isnan(metric):
            raise TrainingError("the metric of step is NaN, neither better nor worse than another")
        return metric

    def _check_state(self, state: object) -> None:
        theirs = state.get("schedule") if isinstance(state, Mapping) else None
        mine = self.line.canonical
        if not isinstance(state, Mapping) or theirs != mine:
            found = f"of `{theirs}`" if isinstance(theirs, str) else "no state of such a schedule"
            raise StateRefused(f"this is `{mine}`, and the saved state is {found}")
        rates, groups = state.get("base_lrs"), len(self.optimizer.param_groups)
        if isinstance(rates, list) and len(rates) != groups:
            raise StateRefused(
                f"the saved schedule has {len(rates)} groups and the optimizer {groups}"
            )
        form = {
            "schedule": mine,
            "position": 0,
            "base_lrs": [0.0] * groups,
            "reference": Reference(self.line).state_dict(),
        }
        damaged = form_of(state) != form_of(form)
        if not damaged:
            *_, outermost = state["reference"]["schedulers"]  # It counts every unit.
            rates = [*state["base_lrs"], state["reference"]["lr"], state["reference"]["momentum"]]
            damaged = outermost["last_epoch"] != state["position"] or not all(map(is_rate, rates))
        if damaged:
            raise StateRefused("the saved schedule is damaged, or another version's")

    def _adopt_new_groups(self) -> None:
        known = len(self.base_lrs)
        own = [rate_of(group) for group in self.optimizer.param_groups[known:]]
        if own:
            _check_rates(own)
            self._write_rates([*self.base_lrs, *own], first=known)

    def _write_rates(self, base_lrs: Sequence[float | torch.Tensor], first: int = 0) -> None:
        """Take other own learning rates, and write those of the groups from ``first`` on."""
        self.base_lrs = list(base_lrs)
        groups = self.optimizer.param_groups[first:]
        rates = self.get_lr()
        for group, own, rate in zip(groups, base_lrs[first:], rates[first:], strict=True):
            group["initial_lr"] = own
            set_rate(group, float(rate))
        self._last_lr = [*self._last_lr[:first], *rates[first:]]
        self._write_momentum(groups)

    def _write_momentum(self, groups: Sequence[dict[str, Any]]) -> None:
        momentum = self._reference.momentum
        if momentum is None:
            return
        for group in groups:
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = momentum


class PlateauSchedule(Schedule, ReduceLROnPlateau):  # type: ignore[misc, override]
    """The schedule that a metric drives: ``step(metric)``, once for each time it is measured.

    Lightning and the Trainer ask for torch's class before they hand a metric over; this is one
    in name alone (torch's ``factor`` is how much a reduction takes). During a warm-up the metric
    is not judged. NaN, which torch counts as worse than any other, is refused.
    """


def _check_rates(rates: Sequence[float]) -> None:
    if not all(map(is_rate, rates)):
        raise TrainingError(f"expected finite learning rates from 0, found {rates}")


def _adopt_new_groups(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Before a step of the optimizer, let its schedule meet new groups."""
    if (schedule := _LATEST[optimizer]()) is not None:
        schedule._adopt_new_groups()
