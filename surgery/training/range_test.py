"""The learning rate range test: raise it until the loss breaks, and see where the loss fell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from os import PathLike
from typing import Any, NoReturn

from torch import nn
from torch.optim import Optimizer

from surgery.errors import TrainingError
from surgery.training.figures import figure
from surgery.training.learning_rates import group_rates, scalar, set_rate
from surgery.training.restoring import inner_optimizers, restored


@dataclass(frozen=True, slots=True)
class RangeTest:
    """What the loss did while learning rates rose, ``planned`` steps or until it diverged.

    ``rates`` are the learning rates of the leading group, which has the highest, and so are
    ``suggested`` and ``diverged_at``; another group's are ``ratios`` (in the order of ``groups``)
    times that. ``losses`` are as measured, each before the step at its learning rate;
    ``smoothed`` is a mean over neighbours on both sides. ``suggested`` is None where the loss
    never fell.
    """

    groups: tuple[str, ...]
    ratios: tuple[float, ...]
    planned: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None
    diverged_at: float | None

    @property
    def leading_group(self) -> str:
        return self.groups[self.ratios.index(1.0)]

    @property
    def suggested_rates(self) -> dict[str, float]:
        """The suggestion for every group, with the ratios that they have; empty without one."""
        if self.suggested is None:
            return {}
        scaled = (ratio * self.suggested for ratio in self.ratios)
        return dict(zip(self.groups, scaled, strict=True))

    def __str__(self) -> str:
        end = "where the loss diverged" if self.diverged_at is not None else "without divergence"
        headline = (
            f"the learning rate of {self.leading_group} rose from {self.rates[0]:.3g} to "
            f"{self.rates[-1]:.3g} in {len(self.rates)} of {self.planned} steps, {end}"
        )
        if self.suggested is None:
            return f"{headline}\nthe loss never fell: there is no learning rate to suggest"
        width = max(map(len, self.groups))
        lines = (f"  {name:{width}}  {rate:.2g}" for name, rate in self.suggested_rates.items())
        return "\n".join((headline, "suggested, where the loss fell fastest:", *lines))

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the loss over the leading group's learning rate, with the suggestion marked."""
        with figure(path, "learning rate range test") as axes:
            axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="loss")
            axes.plot(self.rates, self.smoothed, color="C0", linewidth=2, label="smoothed")
            if self.suggested is not None:
                label = f"suggested: {self.suggested:.2g}"
                axes.axvline(self.suggested, color="C2", linestyle="--", label=label)
            if self.diverged_at is not None:
                label = f"diverged at {self.diverged_at:.2g}"
                axes.axvline(self.diverged_at, color="C3", linestyle=":", label=label)
            axes.set(xlabel=f"learning rate of {self.leading_group}", ylabel="loss", xscale="log")
            axes.set_ylim(*_visible(self.losses, self.smoothed))
            axes.legend(frameon=False)


def _visible(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Down to the lowest loss, and up to the smoothed curve: single losses may be anywhere."""
    bottom, top = min(filter(math.isfinite, losses)), max(smoothed)
    air = 0.1 * (top - bottom) or 1.0
    return bottom - air, top + 2 * air


def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    step_fn: Callable[[], Any],
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.8,
    diverge: float = 4.0,
) -> RangeTest:
    """Raise the learning rates of all groups from step to step, by one factor; watch the loss.

    ``lowest`` and ``highest`` are those of the group that has the highest now; the other groups
    keep their ratios to it. ``step_fn`` takes the next batch, does the forward and the
    backward pass and returns the loss; gradients are cleared and the optimizer is stepped here:

    >>> batches = itertools.cycle(loader)
    >>> def one_batch():
    ...     x, y = next(batches)
    ...     loss = cross_entropy(model(x), y)
    ...     loss.backward()
    ...     return loss
    >>> found = surgery.lr_range_test(model, optimizer, one_batch)
    >>> print(found)
    the learning rate of blocks..fc rose from 1e-07 to 0.89 in 87 of 100 steps, where the loss
    diverged
    suggested, where the loss fell fastest:
      stem..blocks      0.001
      norm..blocks      0.001
      blocks..fc        0.01
      blocks..fc & :1d  0.01

    Model, optimizer and random states are afterwards what they were bit for bit, also where
    ``step_fn`` raises, see :func:`surgery.training.restoring.restored`; batches that it took
    from an iterator stay taken. The model trains in the mode that it is in. Schedules are not
    restored: ``step_fn`` steps none.

    The test is Leslie Smith's (2015, arXiv:1506.01186, section 3.3), with the exponential rise,
    the end of it (``diverge`` times the lowest smoothed loss) and the suggestion (the steepest
    descent over its logarithm) of fastai's ``lr_find``. Two things differ: the loss must also be
    above those at the start to count as diverged, and the suggestion reads a loss that is smoothed
    to both sides, because a running mean lags behind and would suggest too high a learning rate.

    Raises TrainingError for bad arguments, and for a ``step_fn`` that leaves no gradient, steps
    the optimizer, changes learning rates, or returns no number, at first one that is not finite.
    """
    lowest, highest = scalar("lowest", lowest), scalar("highest", highest)
    smoothing, diverge = scalar("smoothing", smoothing), scalar("diverge", diverge)
    _check_arguments(lowest, highest, steps, smoothing, diverge)
    groups = group_rates(optimizer)
    leading = max(groups.values())
    if not leading > 0:
        raise TrainingError(f"no group has a learning rate above 0: {', '.join(groups)}")
    ratios = tuple(rate / leading for rate in groups.values())
    planned = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
    losses: list[float] = []
    with restored(model, optimizer):
        for rate in planned:
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                set_rate(group, ratio * rate)
            losses.append(_one_loss(model, optimizer, step_fn))
            if not math.isfinite(losses[0]):
                raise TrainingError(f"the loss is {losses[0]} before the first step")
            diverged, limit = _divergence(losses, smoothing, diverge)
            if diverged:
                break
            optimizer.step()
    rates = tuple(planned[: len(losses)])
    # Beyond the limit a loss would drown its neighbours.
    bounded = [min(loss, limit) if math.isfinite(loss) else limit for loss in losses]
    smoothed = _smoothed(bounded, smoothing)
    return RangeTest(
        groups=tuple(groups),
        ratios=ratios,
        planned=steps,
        rates=rates,
        losses=tuple(losses),
        smoothed=smoothed,
        suggested=_steepest_descent(rates, smoothed),
        diverged_at=rates[-1] if diverged else None,
    )


def _check_arguments(
    lowest: float, highest: float, steps: int, smoothing: float, diverge: float
) -> None:
    if not 0 < lowest < highest < math.inf:
        raise TrainingError(f"expected 0 < lowest < highest, found {lowest:g} and {highest:g}")
    # The slope at a learning rate is between the losses on both sides of it.
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 3:
        raise TrainingError(f"steps: expected a whole number from 3, found {steps!r}")
    if not 0 <= smoothing < 1:
        raise TrainingError(f"expected a smoothing from 0 to below 1, found {smoothing:g}")
    if not diverge > 1:
        raise TrainingError(f"expected a factor above 1 for diverge, found {diverge:g}")


def _one_loss(model: nn.Module, optimizer: Optimizer, step_fn: Callable[[], Any]) -> float:
    def refuse(*_: object) -> NoReturn:
        """A training step that was pasted whole would step twice at each learning rate."""
        raise TrainingError("step_fn called optimizer.step(), which the range test does after it")

    model.zero_grad()
    optimizer.zero_grad()
    before = group_rates(optimizer)
    driven, *_ = [*inner_optimizers(optimizer), optimizer]
    hook = driven.register_step_pre_hook(refuse)
    try:
        loss = scalar("the loss that step_fn returned", step_fn())
    finally:
        hook.remove()
    # The loss would have been measured, and the step made, at others.
    if group_rates(optimizer) != before:
        raise TrainingError("step_fn changed the learning rates (a scheduler's step?)")
    if not any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
        raise TrainingError("step_fn left no gradient in the optimizer: call backward() in it")
    return loss


def _divergence(losses: Sequence[float], smoothing: float, factor: float) -> tuple[bool, float]:
    """(whether a running mean of the losses passes its limit; the limit).

    The limit is above every loss before the lowest mean, as one that came down from 5 to 0.1 is
    not broken at 0.5; and above ``factor`` times that mean, in distance where it is below 0.
    """
    total = weight = 0.0
    lowest, highest, highest_before_lowest = math.inf, -math.inf, -math.inf
    for loss in losses:
        total = smoothing * total + (1 - smoothing) * loss
        weight = smoothing * weight + 1 - smoothing
        mean = total / weight
        highest = max(highest, loss)
        if mean < lowest:
            lowest, highest_before_lowest = mean, highest
    limit = max(highest_before_lowest, lowest + (factor - 1) * abs(lowest))
    return not math.isfinite(mean) or mean > limit, limit


def _smoothed(losses: Sequence[float], smoothing: float) -> tuple[float, ...]:
    """Means over both sides, which do not lag: a neighbour weighs ``smoothing ** distance``."""
    means = []
    for here in range(len(losses)):
        weights = [smoothing ** abs(here - there) for there in range(len(losses))]
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        means.append(total / sum(weights))
    return tuple(means)


def _steepest_descent(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """In the middle of the steepest stretch; learning rates rise by one factor, so steps do."""
    slopes = [after - before for before, after in zip(losses, losses[2:], strict=False)]
    if not slopes or min(slopes) >= 0:
        return None
    return rates[slopes.index(min(slopes)) + 1]
