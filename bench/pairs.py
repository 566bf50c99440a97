"""Two commands in turn, A B A B ..., so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
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


def compare(
    title: str,
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    runs: int = 7,
    before: Callable[[], None] = lambda: None,
    measure: Callable[[Sequence[str]], Run] | None = None,
) -> Pair:
    """Run both commands in turn, after one uncounted run of each; who is first alternates.

    ``before`` is called ahead of every run and not timed. ``measure`` runs a command; without it
    the whole process is timed.
    """
    measure = measure or run_whole

    def timed(command: Sequence[str]) -> Run:
        before()
        return measure(command)

    timed(ours), timed(theirs)
    pairs = []
    for turn in range(runs):
        if turn % 2:
            second, first = timed(theirs), timed(ours)
        else:
            first, second = timed(ours), timed(theirs)
        pairs.append((first, second))
    return Pair(title, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def run_whole(command: Sequence[str]) -> Run:
    """The whole process, from its start to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Run(seconds, usage.ru_maxrss / 1024)


def run_inside(command: Sequence[str]) -> Run:
    """What the process timed of itself: seconds and peak MiB are the last it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mebibytes = done.stdout.split()[-2:]
    return Run(float(seconds), float(mebibytes))
