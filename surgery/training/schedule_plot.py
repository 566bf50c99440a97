"""The picture of a schedule: one line for each curve, restarts and unfreezings marked."""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING, Any

from surgery.training.curve import ScheduleCurve
from surgery.training.figures import draw_groups, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The lowest learning rate that is drawn, as a share of the smallest group's own.
_LOWEST_SHARE = 1e-3


def plot_schedule(curve: ScheduleCurve, path: str | PathLike[str]) -> None:
    """Write the picture; the suffix of ``path`` says the format (``.png``, ``.svg``, ``.pdf``).

    Raises TrainingError where matplotlib is missing or does not know the format, and
    CheckpointError where nothing can be written.
    """
    with figure(path, curve.schedule or "no schedule: constant learning rates") as axes:
        _draw_rates(axes, curve)
        marks: list[Any] = []
        if restarts := curve.restarts:
            across = axes.get_xaxis_transform()
            look: dict[str, Any] = {"color": "0.55", "linewidth": 0.9, "linestyle": (0, (4, 3))}
            marks.append(axes.vlines(restarts, 0, 1, transform=across, label="restart", **look))
        # A dot where each line that does not start at 0 starts.
        late = [group for group in curve.groups if 0 < group.first_epoch < curve.epochs]
        if late:
            starts = [group.first_epoch for group in late]
            positions = [int(start) * curve.units_per_epoch for start in starts]
            rates = [curve.rate(*each) or math.nan for each in zip(late, positions, strict=True)]
            look = {"color": "black", "markersize": 4, "zorder": 3}
            marks += axes.plot(starts, rates, "o", label="unfreezing", **look)
        if marks:  # below the axes: the legend of the curves is beside them
            axes.figure.legend(
                handles=marks, loc="outside lower right", ncols=2, frameon=False, fontsize=8
            )


def _draw_rates(axes: Axes, curve: ScheduleCurve) -> None:
    """A learning rate holds for its whole unit, which only shows where the unit is an epoch."""
    last = len(curve.factors) - 1
    epochs = [curve.epoch_of(position) for position in range(last + 2)]
    # Neither what is frozen nor a learning rate of 0 has a place on a logarithmic axis.
    rates = {
        group.name: [curve.rate(group, p) or math.nan for p in (*range(last + 1), last)]
        for group in curve.groups
    }
    axes.set(xlabel="epoch", ylabel="learning rate", yscale="log", xlim=(0, curve.epochs))
    stairs = "steps-post" if curve.by == "epoch" else "default"
    draw_groups(axes, epochs, rates, drawstyle=stairs)
    _widen_late_curves(axes)
    # A learning rate of 1e-9 of its own, at the end of a cosine, would press all others together.
    smallest = min((group.lr for group in curve.groups if group.lr > 0), default=1.0)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], smallest * _LOWEST_SHARE))


def _widen_late_curves(axes: Axes) -> None:
    """What joins in at the same height as others would be hidden: it shows on both sides."""
    curves: list[Any] = [line.get_ydata() for line in axes.lines]
    ends = [curve[-1] for curve in curves]
    for line, curve in zip(axes.lines, curves, strict=True):
        if math.isnan(curve[0]) and ends.count(curve[-1]) > 1:
            line.set(linewidth=4.0, zorder=1.9)
