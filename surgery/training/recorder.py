"""Every group's rate, the loss and metrics, step by step: in memory, and as JSON lines."""

from __future__ import annotations

import json
from collections import deque
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import TrainingError
from surgery.training.rates import group_rates
from surgery.training.recording import Recording, StepRecord, parse_line, read_recording
from surgery.training.scalars import scalar

if TYPE_CHECKING:
    import torch


class Recorder:
    """Writes down what the optimizer is about to be told, in any loop.

    Call :meth:`step` once for each step of the optimizer, before the scheduler moves the rates
    on, so that a loss stands beside the rates that it was trained with:

    >>> recorder = surgery.Recorder(optimizer, "run.jsonl")
    >>> for x, y in batches:
    ...     loss = train_on(x, y)                        # ends with optimizer.step()
    ...     recorder.step(loss=loss, accuracy=accuracy)
    ...     schedule.step()
    >>> recorder.plot_rates("rates.png")

    Each step is one line of ``path``, which is opened, written and closed for it: a run that is
    killed has every step up to there, and nothing is left open. An existing file is refused
    unless ``append`` is true; its steps then count on, in memory too, and a last line that a
    crash cut short is dropped.

    ``keep`` bounds the memory: the newest 100,000 steps stay unless said otherwise, which is
    about 110 MB for a dozen groups, and all of them where it is None. The file has every step,
    see :meth:`read`.
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
        earlier = () if self.path is None else _prepare(self.path, append)
        self._records: deque[StepRecord] = deque(earlier, maxlen=keep)
        self._steps = earlier[-1].step if earlier else 0

    def step(self, loss: Any = None, **metrics: Any) -> StepRecord:
        """Record one step, counted from 1; numbers may be tensors of one element.

        Raises :class:`~surgery.errors.TrainingError` for a value that is no single number and
        for a group that the optimizer had and no longer has, before anything is recorded; and
        where the file cannot be written, when the step is in memory alone.
        """
        record = StepRecord(
            step=self._steps + 1,
            groups=self._current_groups(),
            rates=tuple(group_rates(self.optimizer).values()),
            loss=None if loss is None else scalar("loss", loss),
            metrics=tuple((name, scalar(name, value)) for name, value in metrics.items()),
        )
        self._steps, self._groups = record.step, record.groups
        self._records.append(record)
        if self.path is not None:
            _write(self.path, json.dumps(record.to_dict(), allow_nan=False) + "\n")
        return record

    def _current_groups(self) -> tuple[str, ...]:
        groups = tuple(group_rates(self.optimizer))
        gone = [name for name in self._groups if name not in groups]
        if gone:
            raise TrainingError(
                f"group {gone[0]!r} is no longer in the optimizer: record another optimizer "
                "with another Recorder (append=True goes on in the same file)"
            )
        # The same tuple for every step: a recording holds the names once.
        return self._groups if groups == self._groups else groups

    @property
    def recording(self) -> Recording:
        """The steps in memory, as a value that later steps do not change."""
        return Recording(tuple(self._records))

    @staticmethod
    def read(path: str | PathLike[str]) -> Recording:
        """The steps of a file; what is no record is a TrainingError with its line number."""
        return read_recording(Path(path))

    def plot_rates(self, path: str | PathLike[str]) -> None:
        """See :meth:`Recording.plot_rates`."""
        self.recording.plot_rates(path)

    def plot_loss_over_rate(self, path: str | PathLike[str], group: str | None = None) -> None:
        """See :meth:`Recording.plot_loss_over_rate`."""
        self.recording.plot_loss_over_rate(path, group)


def _prepare(path: Path, append: bool) -> tuple[StepRecord, ...]:
    """Make sure that the first step can be written; what the file has where it is to go on."""
    if not path.parent.is_dir():
        raise TrainingError(f"{path}: no folder {path.parent} to write to")
    if path.is_file() and path.stat().st_size:
        if not append:
            raise TrainingError(
                f"{path}: has a recording already; append=True goes on with it, "
                "another path leaves it alone"
            )
        _drop_cut_line(path)
        return read_recording(path).records
    _write(path, "")
    return ()


def _drop_cut_line(path: Path) -> None:
    """End the file where a record ends: what follows would join a line that a crash cut short."""
    *_, last = path.read_bytes().splitlines(keepends=True)
    if last.endswith(b"\n"):
        return
    if parse_line(last.decode(errors="replace")) is None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(last))
    else:
        _write(path, "\n")


def _write(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror or error}") from error
