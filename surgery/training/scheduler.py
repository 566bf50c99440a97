"""A schedule over the groups of an optimizer: their ratios stay, whatever their rates are."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from surgery.errors import StateRefused, TrainingError
from surgery.training.durations import last_unit, refused
from surgery.training.rates import set_rate
from surgery.training.reference import Reference
from surgery.training.scalars import scalar
from surgery.tuning.schedule_line import ScheduleLine, Unit

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


class OneElement(Protocol):
    """A tensor or a NumPy number."""

    def item(self) -> Any: ...


Metric = float | OneElement

#: The hook of the last schedule on each optimizer, the one that meets groups which come later.
_ADOPTIONS: weakref.WeakKeyDictionary[torch.optim.Optimizer, RemovableHandle] = (
    weakref.WeakKeyDictionary()
)


class Schedule(LRScheduler):
    """A schedule of torch's over groups that keep their ratios: ``lr = base_lr * factor``.

    It is one of torch's schedulers, as Lightning and transformers' Trainer ask for one by class:
    return it from ``configure_optimizers`` (its ``by`` is Lightning's ``interval``), or pass it
    in ``Trainer(optimizers=...)``, which steps it after each optimizer step and so wants
    ``by=step``. Like torch's, it warns where the optimizer's ``step`` was forgotten.

    ``base_lrs`` are the groups' own rates. A group that ``add_param_group`` brings later is met
    before the optimizer's next step, and has its own rate times the factor from then on. An
    earlier schedule on the same optimizer no longer meets them.

    Raises TrainingError for groups whose rates are not finite or are below 0. A rate of 0 is a
    group that stands still, whatever the factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, line: ScheduleLine) -> None:
        self.line = line
        self._reference = Reference(line)
        _check_momentum(optimizer, self._reference, line)
        own = [float(group["lr"]) for group in optimizer.param_groups]
        _check_rates(own)
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            # A schedule before this one may have left another rate here, and torch would take it.
            group["initial_lr"] = rate
        # Named, not super(): a plateau has the other ancestor in between, for its name alone.
        LRScheduler.__init__(self, optimizer)
        _replace_adoption(optimizer, _Adoption(self))

    @property
    def by(self) -> Unit:
        """What one call of ``step`` stands for, ``"epoch"`` or ``"step"``."""
        return self.line.by

    @property
    def factor(self) -> float:
        """The share of its own rate that every group has now."""
        return self._reference.factor

    def get_lr(self) -> list[float | torch.Tensor]:
        """Every group's rate now."""
        return [float(rate) * self.factor for rate in self.base_lrs]

    def step(self, metrics: Metric | None = None) -> None:
        """One unit on. ``metrics``, torch's name for one number, is for ReduceLROnPlateau alone.

        That one needs it, and others refuse it; what is refused leaves the schedule where it is.
        """
        if not self._is_initial:
            metric = self._metric(metrics)
            self._check_end()
            self._adopt_new_groups()
            self._reference.advance(metric)
        LRScheduler.step(self)
        self._write_momentum(self.optimizer.param_groups)

    def rebase(self, base_lrs: Sequence[float] | None = None) -> None:
        """Other own rates from here on, at the same point of the schedule.

        Without ``base_lrs``, what the groups have as ``lr`` now (someone has written new rates
        into them) are their own rates, and are multiplied by the factor at once.
        """
        groups = self.optimizer.param_groups
        given = [group["lr"] for group in groups] if base_lrs is None else base_lrs
        rates = [scalar("a rate", rate) for rate in given]
        if len(rates) != len(groups):
            raise TrainingError(f"{len(rates)} rates for the optimizer's {len(groups)} groups")
        _check_rates(rates)
        self._take(rates)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands and the groups' own rates: numbers, text, lists and dicts."""
        return {
            "schedule": self.line.canonical,
            "position": self.last_epoch,
            "base_lrs": [float(rate) for rate in self.base_lrs],
            "reference": self._reference.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, keep_base_lrs: bool = False) -> None:
        """Go on where another one stopped; every group's rate is written at once.

        With ``keep_base_lrs`` only the position is taken, and the groups' own rates stay: those
        of new rules, over other groups perhaps. Raises :class:`~surgery.errors.StateRefused`,
        and changes nothing, for the state of another schedule or of another number of groups,
        and for one that is damaged.
        """
        self._check_state(state)
        if not keep_base_lrs:
            self._check_base_lrs(state.get("base_lrs"))
        self._adopt_new_groups()
        rates = self.base_lrs if keep_base_lrs else state["base_lrs"]
        self._reference.load_state_dict(state["reference"])
        self.last_epoch = state["position"]
        self._step_count = state["position"] + 1
        self._take([float(rate) for rate in rates])

    def _metric(self, metrics: Metric | None) -> float | None:
        """The one number in what ``step`` was given; None where this schedule goes by none."""
        if metrics is not None:
            raise TrainingError(
                f"{self.line.kind} takes no metric and counts its {self.by}s itself: "
                f"step() alone, found step({metrics!r})"
            )
        return None

    def _check_end(self) -> None:
        last = last_unit(self.line)
        if last is not None and self.last_epoch >= last:
            raise refused(
                self.line,
                f"{self.line.kind} is over after {last} {self.by}s, and was stepped once more",
            )

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
        if not isinstance(rates, (list, tuple)) or not all(map(_is_rate, rates)):
            raise StateRefused(
                f"the saved schedule's base_lrs: expected finite rates from 0, found {rates!r}"
            )
        groups = len(self.optimizer.param_groups)
        if len(rates) != groups:
            raise StateRefused(
                f"the saved schedule has {len(rates)} groups and the optimizer {groups}: "
                "keep_base_lrs=True takes the position alone"
            )

    def _adopt_new_groups(self) -> None:
        new = self.optimizer.param_groups[len(self.base_lrs) :]
        if not new:
            return
        own = [float(group["lr"]) for group in new]
        _check_rates(own)
        self.base_lrs = [*self.base_lrs, *own]
        self._last_lr = [*self._last_lr, *self._write_rates(new, own)]
        self._write_momentum(new)

    def _take(self, base_lrs: Sequence[float]) -> None:
        groups = self.optimizer.param_groups
        self.base_lrs = list(base_lrs)
        self._last_lr = [*self._write_rates(groups, base_lrs)]
        self._write_momentum(groups)

    def _write_rates(
        self, groups: Sequence[dict[str, Any]], base_lrs: Sequence[float]
    ) -> list[float]:
        rates = [own * self.factor for own in base_lrs]
        for group, own, rate in zip(groups, base_lrs, rates, strict=True):
            group["initial_lr"] = own
            set_rate(group, rate)
        return rates

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
    schedule, it is the share of its own rate that every group has now.

    A metric that is NaN is neither better nor worse than another, and is refused; torch counts
    it as worse.
    """

    def _metric(self, metrics: Metric | None) -> float | None:
        if metrics is None:
            raise TrainingError("ReduceLROnPlateau goes by a metric: step(metric), found step()")
        metric = scalar("the metric of step", metrics)
        if math.isnan(metric):
            raise TrainingError("the metric of step is NaN, neither better nor worse than another")
        return metric


class _Adoption:
    """Before the optimizer steps: groups that were added since have to be at their rate.

    Held weakly, so that an optimizer does not keep alive a schedule that another one replaced.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = weakref.ref(schedule)

    def __call__(self, optimizer: object, args: object, kwargs: object) -> None:
        schedule = self._schedule()
        if schedule is not None:
            schedule._adopt_new_groups()


def _replace_adoption(optimizer: torch.optim.Optimizer, adoption: _Adoption) -> None:
    """A schedule that is forgotten, and alive still, would give new groups a rate of its own."""
    earlier = _ADOPTIONS.pop(optimizer, None)
    if earlier is not None:
        earlier.remove()
    _ADOPTIONS[optimizer] = optimizer.register_step_pre_hook(adoption)


def _check_rates(rates: Sequence[float]) -> None:
    if not all(map(_is_rate, rates)):
        raise TrainingError(f"expected finite rates from 0, found {rates}")


def _is_rate(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= sys.float_info.max  # type: ignore[operator]


def _check_momentum(
    optimizer: torch.optim.Optimizer, reference: Reference, line: ScheduleLine
) -> None:
    if reference.momentum is None:
        return
    if not any("betas" in group or "momentum" in group for group in optimizer.param_groups):
        name = type(optimizer).__name__
        raise refused(
            line, f"OneCycleLR cycles a momentum, and {name} has none: cycle_momentum=false"
        )
