"""What a recorder wrote down, as a value: read back, asked, plotted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from surgery.errors import TrainingError, did_you_mean
from surgery.training.figures import draw_groups, figure
from surgery.training.scalars import from_json, to_json


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step, counted from 1. ``rates`` are those of ``groups``, in the optimizer's order."""

    step: int
    groups: tuple[str, ...]
    rates: tuple[float, ...]
    loss: float | None
    metrics: tuple[tuple[str, float], ...]

    def rate(self, group: str) -> float:
        """A group's rate in this step; NaN where the optimizer did not have it yet."""
        return self.rates[self.groups.index(group)] if group in self.groups else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON values; NaN and infinities, which JSON lacks, by name."""
        return {
            "step": self.step,
            "loss": None if self.loss is None else to_json(self.loss),
            "rates": dict(zip(self.groups, map(to_json, self.rates), strict=True)),
            "metrics": {name: to_json(value) for name, value in self.metrics},
        }


@dataclass(frozen=True, slots=True)
class Recording:
    """Steps in the order in which they were recorded."""

    records: tuple[StepRecord, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self.records)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all groups that any step had."""
        return tuple(dict.fromkeys(name for record in self.records for name in record.groups))

    @property
    def leading_group(self) -> str:
        """The group that reached the highest rate; the first of equals."""
        return max(self.groups, key=lambda name: max(self._curve(name)))

    def _curve(self, group: str) -> list[float]:
        return [rate for record in self.records if not math.isnan(rate := record.rate(group))]

    def plot_rates(self, path: str | PathLike[str]) -> None:
        """Draw every group's rate over the steps; the suffix (.png, .svg, .pdf) is the format.

        The axis is logarithmic, where groups that keep their ratio keep their distance; it ends
        a million times below the highest rate.
        """
        if not self.groups:
            raise TrainingError(f"{path}: nothing to plot, no step was recorded")
        steps = [record.step for record in self.records]
        curves = {name: [record.rate(name) for record in self.records] for name in self.groups}
        with figure(path, "rate of every group") as axes:
            draw_groups(axes, steps, curves)
            axes.set(xlabel="step", ylabel="rate", yscale="log")
            top = max(rate for record in self.records for rate in record.rates)
            axes.set_ylim(bottom=max(axes.get_ylim()[0], top / 1e6))

    def plot_loss_over_rate(self, path: str | PathLike[str], group: str | None = None) -> None:
        """Draw each step's loss over one group's rate, coloured by the step.

        ``group`` is the one with the highest rate unless named. Steps without a loss, and losses
        that are not finite, have no place on the picture.
        """
        group = self._plottable(path, group)
        points = [
            (record.rate(group), record.loss, record.step)
            for record in self.records
            if record.loss is not None and math.isfinite(record.loss) and record.rate(group) > 0
        ]
        if not points:
            raise TrainingError(f"{path}: nothing to plot, no step has a loss and a rate")
        rates, losses, steps = zip(*points, strict=True)
        with figure(path, f"loss over the rate of {group}") as axes:
            axes.plot(rates, losses, color="0.8", linewidth=0.8, zorder=1)
            dots = axes.scatter(rates, losses, c=steps, s=12, zorder=2)
            axes.figure.colorbar(dots, label="step")
            axes.set(xlabel=f"rate of {group}", ylabel="loss", xscale="log")

    def _plottable(self, path: str | PathLike[str], group: str | None) -> str:
        if not self.groups:
            raise TrainingError(f"{path}: nothing to plot, no step was recorded")
        if group is not None and group not in self.groups:
            raise TrainingError(
                f"no group is called {group!r}{did_you_mean(group, self.groups)}",
            )
        return group or self.leading_group


def read_recording(path: Path) -> Recording:
    """Read JSON lines; a last line without its end, which a crash leaves, is dropped."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = text.split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = parse_line(line)
        if record is not None:
            records.append(record)
        elif line and number < len(lines):
            raise TrainingError(f"{path}:{number}: no record of a step")
    return Recording(tuple(records))


def parse_line(line: str) -> StepRecord | None:
    """One line of the file, or None where it is no record."""
    try:
        found = json.loads(line)
        return StepRecord(
            step=int(found["step"]),
            groups=tuple(found["rates"]),
            rates=tuple(map(from_json, found["rates"].values())),
            loss=None if found["loss"] is None else from_json(found["loss"]),
            metrics=tuple((name, from_json(value)) for name, value in found["metrics"].items()),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
