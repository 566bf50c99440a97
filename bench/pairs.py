"""Two commands in turn, A B A B ..., so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Wall seconds and peak resident MiB of one finished process."""

    seconds: float
    mebibytes: float


@dataclass(frozen=True, slots=True)
class Pair:
    """What two commands took, pair by pair."""

    title: str
    ours: tuple[Run, ...]
    theirs: tuple[Run, ...]

    def __str__(self) -> str:
        ratios = [a.seconds / b.seconds for a, b in zip(self.ours, self.theirs, strict=True)]
        return "\n".join(
            (
                self.title,
                f"  ours    {spread([run.seconds for run in self.ours], 's')}   "
                f"{spread([run.mebibytes for run in self.ours], 'MiB')}",
                f"  theirs  {spread([run.seconds for run in self.theirs], 's')}   "
                f"{spread([run.mebibytes for run in self.theirs], 'MiB')}",
                f"  ratio   {spread(ratios, '')}",
            )
        )


def spread(values: Sequence[float], unit: str) -> str:
    """The median, with the lowest and the highest."""
    middle = statistics.median(values)
    return f"{middle:8.3f} {unit} ({min(values):.3f} to {max(values):.3f})"


def compare(title: str, ours: Sequence[str], theirs: Sequence[str], *, runs: int = 7) -> Pair:
    """Run both commands in turn, after one uncounted run of each."""
    _run(ours), _run(theirs)
    pairs = [(_run(ours), _run(theirs)) for _ in range(runs)]
    return Pair(title, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def _run(command: Sequence[str]) -> Run:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Run(seconds, usage.ru_maxrss / 1024)
