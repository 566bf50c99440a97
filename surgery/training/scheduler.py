"""A schedule over the groups of an optimizer: their ratios stay, whatever their rates are."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from surgery.errors import StateRefused, TrainingError
from surgery.training.durations import last_unit, refused
from surgery.training.rates import set_rate
from surgery.training.reference import Reference
from surgery.tuning.schedule_line import ScheduleLine, Unit

if TYPE_CHECKING:
    import torch


class Metric(Protocol):
    """A number, or a tensor of one."""

    def __float__(self) -> float: ...


class Schedule(LRScheduler):
    """A schedule of torch's over groups that keep their ratios: ``lr = base_lr * factor``.

    It is one of torch's schedulers, as Lightning and transformers' Trainer ask for one by class:
    return it from ``configure_optimizers`` (its ``by`` is Lightning's ``interval``), or pass it
    in ``Trainer(optimizers=...)``, which steps it after each optimizer step and so wants
    ``by=step``. Like torch's, it warns where the optimizer's ``step`` was forgotten.

    ``base_lrs`` are the groups' own rates. A group that ``add_param_group`` brings later is met
    before the optimizer's next step, and has its own rate times the factor from then on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, line: ScheduleLine) -> None:
        self.line = line
        self._reference = Reference(line)
        _check_momentum(optimizer, self._reference, line)
        for group in optimizer.param_groups:
            # A schedule before this one may have left another rate here, and torch would take it.
            group["initial_lr"] = float(group["lr"])
        # Named, not super(): a plateau has the other ancestor in between, for its name alone.
        LRScheduler.__init__(self, optimizer)
        optimizer.register_step_pre_hook(_Adoption(self))

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
        self._adopt_new_groups()
        return [float(rate) * self.factor for rate in self.base_lrs]

    def step(self, metric: Metric | None = None) -> None:
        """One unit on. ``metric`` is for ReduceLROnPlateau, which needs it; others refuse it."""
        if not self._is_initial:
            self._check_metric(metric)
            self._check_end()
            self._reference.advance(None if metric is None else float(metric))
        LRScheduler.step(self)
        self._write_momentum()

    def rebase(self, base_lrs: Sequence[float] | None = None) -> None:
        """Other own rates from here on, at the same point of the schedule.

        Without ``base_lrs``, what the groups have as ``lr`` now (someone has written new rates
        into them) are their own rates, and are multiplied by the factor at once.
        """
        groups = self.optimizer.param_groups
        rates = [float(group["lr"]) for group in groups] if base_lrs is None else list(base_lrs)
        if len(rates) != len(groups):
            raise TrainingError(f"{len(rates)} rates for the optimizer's {len(groups)} groups")
        if not all(0 <= rate < float("inf") for rate in rates):
            raise TrainingError(f"expected finite rates from 0, found {rates}")
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
        and changes nothing, for the state of another schedule or of another number of groups.
        """
        self._adopt_new_groups()
        rates = self.base_lrs if keep_base_lrs else state.get("base_lrs", ())
        self._check_state(state, len(rates))
        self._reference.load_state_dict(state["reference"])
        self.last_epoch = state["position"]
        self._step_count = state["position"] + 1
        self._take([float(rate) for rate in rates])

    def _check_metric(self, metric: object) -> None:
        if metric is not None:
            raise TrainingError(
                f"{self.line.kind} takes no metric and counts its {self.by}s itself: "
                f"step() alone, found step({metric!r})"
            )

    def _check_end(self) -> None:
        last = last_unit(self.line)
        if last is not None and self.last_epoch >= last:
            raise refused(
                self.line,
                f"{self.line.kind} is over after {last} {self.by}s, and was stepped once more",
            )

    def _check_state(self, state: Mapping[str, Any], rates: int) -> None:
        mine, theirs = self.line.canonical, state.get("schedule")
        if theirs != mine:
            found = f"of `{theirs}`" if isinstance(theirs, str) else "no state of such a schedule"
            raise StateRefused(f"this is `{mine}`, and the saved state is {found}")
        groups = len(self.optimizer.param_groups)
        if rates != groups:
            raise StateRefused(
                f"the saved schedule has {rates} groups and the optimizer {groups}: "
                "keep_base_lrs=True takes the position alone"
            )

    def _adopt_new_groups(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) > len(self.base_lrs):
            new = [float(group["lr"]) for group in groups[len(self.base_lrs) :]]
            self._take([*(float(rate) for rate in self.base_lrs), *new])

    def _take(self, base_lrs: Sequence[float]) -> None:
        self.base_lrs = list(base_lrs)
        for group, rate in zip(self.optimizer.param_groups, base_lrs, strict=True):
            group["initial_lr"] = rate
            set_rate(group, rate * self.factor)
        self._last_lr = [rate * self.factor for rate in base_lrs]
        self._write_momentum()

    def _write_momentum(self) -> None:
        momentum = self._reference.momentum
        if momentum is None:
            return
        for group in self.optimizer.param_groups:
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
    """

    def _check_metric(self, metric: object) -> None:
        if metric is None:
            raise TrainingError("ReduceLROnPlateau goes by a metric: step(metric), found step()")


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
