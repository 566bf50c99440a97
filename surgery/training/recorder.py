"""Every group's learning rate, the loss and metrics, step by step: in memory, and as JSON lines."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.text import read_regular
from surgery.errors import TrainingError, did_you_mean
from surgery.training.figures import draw_groups, figure
from surgery.training.learning_rates import group_rates, scalar


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step, counted from 1. ``rates`` are those of ``groups``, in the optimizer's order."""

    step: int
    groups: tuple[str, ...]
    rates: tuple[float, ...]
    loss: float | None
    metrics: tuple[tuple[str, float], ...]

    def rate(self, group: str) -> float:
        """A group's learning rate in this step; NaN where the optimizer did not have it yet."""
        return self.rates[self.groups.index(group)] if group in self.groups else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON values; NaN and infinities, which JSON lacks, by name."""
        return {
            "step": self.step,
            "loss": None if self.loss is None else _to_json(self.loss),
            "rates": dict(zip(self.groups, map(_to_json, self.rates), strict=True)),
            "metrics": {name: _to_json(value) for name, value in self.metrics},
        }


class Recording:
    """Steps in the order in which they were recorded: of a file, or of a run that goes on."""

    def __init__(self, records: Sequence[StepRecord]) -> None:
        self.records = records

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all groups that any step had."""
        return tuple(dict.fromkeys(name for record in self.records for name in record.groups))

    def plot_rates(self, path: str | PathLike[str]) -> None:
        """Draw every group's learning rate over the steps; the suffix (.png, ...) is the format.

        The axis is logarithmic, and ends a million times below the highest.
        """
        self._check_steps(path)
        steps = [record.step for record in self.records]
        curves = {name: [record.rate(name) for record in self.records] for name in self.groups}
        with figure(path, "learning rate of every group") as axes:
            draw_groups(axes, steps, curves)
            axes.set(xlabel="step", ylabel="learning rate", yscale="log")
            top = max(rate for record in self.records for rate in record.rates)
            axes.set_ylim(bottom=max(axes.get_ylim()[0], top / 1e6))

    def plot_loss_over_rate(self, path: str | PathLike[str], group: str | None = None) -> None:
        """Draw each step's loss over one group's learning rate, coloured by the step.

        ``group`` is the one with the highest learning rate unless named. Losses that are missing
        or not finite have no place on the picture.
        """
        self._check_steps(path)
        if group is not None and group not in self.groups:
            hint = did_you_mean(group, self.groups)
            raise TrainingError(f"no group is called {group!r}{hint}")
        if group is None:
            fastest = max(self.records, key=lambda record: max(record.rates))
            group = fastest.groups[fastest.rates.index(max(fastest.rates))]
        points = [
            (record.rate(group), record.loss, record.step)
            for record in self.records
            if record.loss is not None and math.isfinite(record.loss) and record.rate(group) > 0
        ]
        if not points:
            raise TrainingError(f"{path}: nothing to plot, no step has a loss and a learning rate")
        rates, losses, steps = zip(*points, strict=True)
        with figure(path, f"loss over the learning rate of {group}") as axes:
            axes.plot(rates, losses, color="0.8", linewidth=0.8, zorder=1)
            dots = axes.scatter(rates, losses, c=steps, s=12, zorder=2)
            axes.figure.colorbar(dots, label="step")
            axes.set(xlabel=f"learning rate of {group}", ylabel="loss", xscale="log")

    def _check_steps(self, path: str | PathLike[str]) -> None:
        if not self.groups:
            raise TrainingError(f"{path}: nothing to plot, no step was recorded")


class Recorder(Recording):
    """Writes down learning rates, loss and metrics of every step, in any loop.

    Call :meth:`step` once for each step of the optimizer, before the scheduler's, so that a loss
    stands beside the learning rates that it was trained with:

    >>> recorder = surgery.Recorder(optimizer, "run.jsonl")
    >>> for x, y in batches:
    ...     loss = train_on(x, y)                        # ends with optimizer.step()
    ...     recorder.step(loss=loss, accuracy=accuracy)
    ...     schedule.step()
    >>> recorder.plot_rates("rates.png")

    Each step is one line of ``path``, which is opened, written and closed for it: a run that is
    killed has every step up to there. An existing file is refused unless ``append`` is true; its
    steps then count on, and a last line that a crash cut short is dropped.

    ``keep`` bounds the memory: the newest 100,000 steps stay (about 110 MB for a dozen groups),
    all of them where it is None. The file has every step, see :meth:`read`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        path: str | PathLike[str] | None = None,
        *,
        append: bool = False,
        keep: int | None = 100_000,
    ) -> None:
        self.optimizer = optimizer
        self.path = None if path is None else Path(path)
        self._groups = tuple(group_rates(optimizer))
        earlier = [] if self.path is None else _prepare(self.path, append)
        self.records: deque[StepRecord] = deque(earlier, maxlen=keep)
        self._steps = earlier[-1].step if earlier else 0

    def step(self, loss: Any = None, **metrics: Any) -> StepRecord:
        """Record one step, counted from 1; numbers may be tensors of one element.

        Raises :class:`~surgery.errors.TrainingError` for a value that is no single number and
        for a group that the optimizer had and no longer has, before anything is recorded; and
        where the file cannot be written, when the step is in memory alone.
        """
        rates = group_rates(self.optimizer)
        gone = [name for name in self._groups if name not in rates]
        if gone:
            raise TrainingError(
                f"group {gone[0]!r} is no longer in the optimizer: record another optimizer "
                "with another Recorder (append=True goes on in the same file)"
            )
        groups = tuple(rates)
        record = StepRecord(
            step=self._steps + 1,
            # The same tuple for every step: a recording holds the names once.
            groups=self._groups if groups == self._groups else groups,
            rates=tuple(rates.values()),
            loss=None if loss is None else scalar("loss", loss),
            metrics=tuple((name, scalar(name, value)) for name, value in metrics.items()),
        )
        self._steps, self._groups = record.step, record.groups
        self.records.append(record)
        if self.path is not None:
            _write(self.path, json.dumps(record.to_dict(), allow_nan=False) + "\n")
        return record

    @staticmethod
    def read(path: str | PathLike[str]) -> Recording:
        """The steps of a file; what is no record is a TrainingError with its line number."""
        return Recording(_read(Path(path)))


def _prepare(path: Path, append: bool) -> list[StepRecord]:
    """Make sure that the first step can be written; what the file has where it is to go on."""
    if not (path.is_file() and path.stat().st_size):
        _write(path, "")
        return []
    if not append:
        raise TrainingError(
            f"{path}: has a recording already; append=True goes on with it, "
            "another path leaves it alone"
        )
    records = _read(path)
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    # What follows would join a line that a crash cut short.
    if _parsed(content[end:]) is not None:
        _write(path, "\n")
    else:
        os.truncate(path, end)
    return records


def _write(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read(path: Path) -> list[StepRecord]:
    """Read JSON lines; a last line without its end, which a crash leaves, is dropped."""
    try:
        text = read_regular(path).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise TrainingError(f"{path}: cannot be read: {why}") from error
    lines = text.split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is not None:
            records.append(record)
        elif line and number < len(lines):
            raise TrainingError(f"{path}:{number}: no record of a step")
    return records


def _parsed(line: str | bytes) -> StepRecord | None:
    """One line of the file; None where it is no record."""
    try:
        found = json.loads(line)
        return StepRecord(
            step=int(found["step"]),
            groups=tuple(found["rates"]),
            rates=tuple(map(float, found["rates"].values())),
            loss=None if found["loss"] is None else float(found["loss"]),
            metrics=tuple((name, float(value)) for name, value in found["metrics"].items()),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _to_json(number: float) -> float | str:
    """The number, or its name where JSON has none (``"nan"``, ``"inf"``), which float() reads."""
    return number if math.isfinite(number) else str(number)
