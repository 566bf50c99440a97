"""A schedule over the groups of an optimizer, whose learning rates keep their ratios."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.hooks import RemovableHandle

from surgery.errors import Problem, RuleError, StateRefused, TrainingError
from surgery.training.durations import RunLength, count_durations, last_unit, refused
from surgery.training.learning_rates import is_rate, scalar, set_rate
from surgery.training.reference import Reference
from surgery.tuning import parse_rules, read_rules
from surgery.tuning.rules import RulesSource
from surgery.tuning.schedule_line import ScheduleLine, Unit

#: The hook of the last schedule on each optimizer, the one that meets groups which come later.
_ADOPTIONS: weakref.WeakKeyDictionary[torch.optim.Optimizer, RemovableHandle] = (
    weakref.WeakKeyDictionary()
)


def build_schedule(
    optimizer: torch.optim.Optimizer,
    schedule: RulesSource | ScheduleLine,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """The schedule of a rules file on an optimizer: call ``step()`` once an epoch, or step.

    ``schedule`` is a rules file (its path, text or :class:`~surgery.tuning.rules.Rules`), the
    text of a schedule line alone, or one that was read. ``epochs`` and ``steps_per_epoch`` are the
    run's length, needed where the line leaves a duration open. Every group's present learning rate
    is its own, which the schedule multiplies; none of them has to be given again.

    Raises :class:`~surgery.errors.RuleError`, with file and line, before anything is changed.

    >>> schedule = surgery.build_schedule(optimizer, "schedule cosine floor=0.01", epochs=30)
    >>> for epoch in range(30):
    ...     train(model, optimizer)
    ...     schedule.step()
    """
    line = count_durations(find_line(schedule), RunLength(epochs, steps_per_epoch))
    kind = PlateauSchedule if line.kind == "ReduceLROnPlateau" else Schedule
    return kind(optimizer, line)


def find_line(schedule: RulesSource | ScheduleLine) -> ScheduleLine:
    """The one schedule line in what the caller gave; RuleError where there is none."""
    if isinstance(schedule, ScheduleLine):
        return schedule
    # `schedule cosine` alone has nothing by which text differs from a file's name.
    if isinstance(schedule, str) and schedule.split()[:1] == ["schedule"]:
        rules = parse_rules(schedule)
    else:
        rules = read_rules(schedule)
    if rules.schedule is None:
        hint = "write one, as in `schedule cosine floor=0.01`"
        raise RuleError(rules.path, [Problem(0, f"there is no schedule line: {hint}")])
    return rules.schedule


class Schedule(LRScheduler):
    """A schedule of torch's over groups that keep their ratios: ``lr = base_lr * factor``.

    It is one of torch's schedulers, as Lightning and transformers' Trainer ask for one by class:
    return it from ``configure_optimizers`` (its ``by`` is Lightning's ``interval``), or pass it
    in ``Trainer(optimizers=...)``, which steps it after each optimizer step and so wants
    ``by=step``. Like torch's, it warns where the optimizer's ``step`` was forgotten.

    ``base_lrs`` are the groups' own learning rates. A group that ``add_param_group`` brings
    later is met before the optimizer's next step, and has its own learning rate times the factor
    from then on. An earlier schedule on the same optimizer no longer meets them.

    Raises TrainingError for groups whose learning rates are not finite or are below 0. A
    learning rate of 0 is a group that stands still, whatever the factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, line: ScheduleLine) -> None:
        self.line = line
        self._reference = Reference(line)
        self._check_momentum(optimizer)
        own = [float(group["lr"]) for group in optimizer.param_groups]
        _check_rates(own)
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            # A schedule before this one may have left another here, and torch would take it.
            group["initial_lr"] = rate
        # Named, not super(): a plateau has the other ancestor in between, for its name alone.
        LRScheduler.__init__(self, optimizer)
        self._adopt_before_steps()

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

    def rebase(self, base_lrs: Sequence[float] | None = None) -> None:
        """Other own learning rates from here on, at the same point of the schedule.

        Without ``base_lrs``, what the groups have as ``lr`` now (someone has written new ones
        into them) are their own, and are multiplied by the factor at once.
        """
        groups = self.optimizer.param_groups
        given = [group["lr"] for group in groups] if base_lrs is None else base_lrs
        rates = [scalar("a learning rate", rate) for rate in given]
        if len(rates) != len(groups):
            raise TrainingError(
                f"{len(rates)} learning rates for the optimizer's {len(groups)} groups"
            )
        _check_rates(rates)
        self._write_rates(rates)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, and ``base_lrs``: numbers, text, lists and dicts."""
        return {
            "schedule": self.line.canonical,
            "position": self.last_epoch,
            "base_lrs": [float(rate) for rate in self.base_lrs],
            "reference": self._reference.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, keep_base_lrs: bool = False) -> None:
        """Go on where another one stopped; every group's learning rate is written at once.

        With ``keep_base_lrs`` only the position is taken, and the groups' own learning rates
        stay: those of new rules, over other groups perhaps. Raises
        :class:`~surgery.errors.StateRefused`, and changes nothing, for the state of another
        schedule or of another number of groups, and for one that is damaged.
        """
        self._check_state(state)
        if not keep_base_lrs:
            self._check_base_lrs(state.get("base_lrs"))
        self._adopt_new_groups()
        rates = self.base_lrs if keep_base_lrs else state["base_lrs"]
        self._reference.load_state_dict(state["reference"])
        self.last_epoch = state["position"]
        self._step_count = state["position"] + 1
        self._write_rates([float(rate) for rate in rates])

    def _metric(self, metrics: SupportsFloat | None) -> float | None:
        """The one number in what ``step`` was given; None where this schedule goes by none."""
        if metrics is not None:
            raise TrainingError(
                f"{self.line.kind} takes no metric and counts its {self.by}s itself: "
                f"step() alone, found step({metrics!r})"
            )
        return None

    def _check_state(self, state: object) -> None:
        theirs = state.get("schedule") if isinstance(state, Mapping) else None
        mine = self.line.canonical
        if not isinstance(state, Mapping) or theirs != mine:
            found = f"of `{theirs}`" if isinstance(theirs, str) else "no state of such a schedule"
            raise StateRefused(f"this is `{mine}`, and the saved state is {found}")
        position = state.get("position")
        if not isinstance(position, int) or isinstance(position, bool) or position < 0:
            raise StateRefused(
                f"the saved schedule's position: expected a whole number from 0, found {position!r}"
            )
        self._reference.check_state(state.get("reference"), position)

    def _check_base_lrs(self, rates: object) -> None:
        if not isinstance(rates, (list, tuple)) or not all(map(is_rate, rates)):
            raise StateRefused(
                "the saved schedule's base_lrs: expected finite learning rates from 0, "
                f"found {rates!r}"
            )
        groups = len(self.optimizer.param_groups)
        if len(rates) != groups:
            raise StateRefused(
                f"the saved schedule has {len(rates)} groups and the optimizer {groups}: "
                "keep_base_lrs=True takes the position alone"
            )

    def _check_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        groups = optimizer.param_groups
        cycles = self._reference.momentum is not None
        if cycles and not any("betas" in group or "momentum" in group for group in groups):
            raise refused(
                self.line,
                f"OneCycleLR cycles a momentum, and {type(optimizer).__name__} has none: "
                "cycle_momentum=false",
            )

    def _adopt_before_steps(self) -> None:
        """Let the optimizer's steps meet new groups, and no longer those of an earlier schedule.

        That one, forgotten and alive still, would give new groups a learning rate of its own.
        Held weakly: an optimizer does not keep alive a schedule that another one replaced.
        """
        alive = weakref.WeakMethod(self._adopt_new_groups)

        def adopt(*_: object) -> None:
            if (adopt_new_groups := alive()) is not None:
                adopt_new_groups()

        if (earlier := _ADOPTIONS.pop(self.optimizer, None)) is not None:
            earlier.remove()
        _ADOPTIONS[self.optimizer] = self.optimizer.register_step_pre_hook(adopt)

    def _adopt_new_groups(self) -> None:
        known = len(self.base_lrs)
        own = [float(group["lr"]) for group in self.optimizer.param_groups[known:]]
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
    in name, and everything that it does is :class:`Schedule`'s. During a warm-up the metric is
    taken and not judged. Torch's ``factor`` is how much a reduction takes; here, as in every
    schedule, it is the share of its own learning rate that every group has now.

    A metric that is NaN is neither better nor worse than another, and is refused; torch counts
    it as worse.
    """

    def _metric(self, metrics: SupportsFloat | None) -> float | None:
        if metrics is None:
            raise TrainingError("ReduceLROnPlateau goes by a metric: step(metric), found step()")
        metric = scalar("the metric of step", metrics)
        if math.isnan(metric):
            raise TrainingError("the metric of step is NaN, neither better nor worse than another")
        return metric


def _check_rates(rates: Sequence[float]) -> None:
    if not all(map(is_rate, rates)):
        raise TrainingError(f"expected finite learning rates from 0, found {rates}")
