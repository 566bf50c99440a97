"""The outlines of all known architectures: built once for the installed code, then remembered.

To build all of timm and torchvision takes minutes, so processes of their own do it, and what one
of them has told is kept at once: an interrupted survey goes on where it was.

Nothing is left out by a guess at its family. Building one member of each family first, comparing
names without their numbers, and then building the five best families alone was measured: it takes
a sixth of the time, and misses the right architecture in 60 of 1,492 (all CoAtNets among them).

The processes are fresh interpreters. What the caller has imported or registered is not theirs, so
what they tell may be remembered whatever the caller did; and their memory is theirs.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from surgery.collecting import collector_paused
from surgery.errors import ArchitectureError
from surgery.networks.architectures import find_architecture, list_architectures
from surgery.networks.remembered import Memory, Outline, from_columns, open_memory, to_columns
from surgery.wrappers import unwrap_names

#: Entries that the outlines are kept in: few enough for a folder that holds 500, and enough that
#: an interruption costs seconds. An architecture's place hangs on its name alone, so that a new
#: one in the list costs the others of one entry.
BATCHES = 64

#: Processes at a time, as far as there are processors: each takes 1 GB.
MOST_WORKERS = 4

#: For glibc: whatever is large goes back to the system when it is freed. By default it comes to
#: keep such memory, and a process that built one model after the other held 5 GB in the end.
_LEAN = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}

#: Called with the number of architectures done and of all.
Progress = Callable[[int, int], None]

Batch = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """Outlines, and the architectures that could not be built, each with the reason."""

    outlines: tuple[Outline, ...]
    failed: tuple[tuple[str, str], ...] = ()


def survey(
    labels: Iterable[str] | None = None, *, progress: Progress = lambda done, total: None
) -> Survey:
    """The outlines of these architectures (``"timm:resnet50"``), of all where none are given.

    ``progress`` is called while any have to be built. Raises
    :class:`~surgery.errors.ArchitectureError` where the building ends early; what was done until
    then is remembered.
    """
    memory = open_memory(fresh=True)
    with collector_paused():
        batches = _batches(list_architectures() if labels is None else labels)
        told = {batch: _recall(memory, batch) for batch in batches}
        missing = [batch for batch, tally in told.items() if tally is None]
        if missing:
            told |= _build(missing, memory, progress)
    tallies = [tally for tally in told.values() if tally is not None]
    return Survey(
        tuple(outline for tally in tallies for outline in tally.outlines),
        tuple(failure for tally in tallies for failure in tally.failed),
    )


def _batches(labels: Iterable[str]) -> list[Batch]:
    found: dict[int, list[str]] = {}
    for label in sorted(dict.fromkeys(labels)):
        found.setdefault(zlib.crc32(label.encode()) % BATCHES, []).append(label)
    return [tuple(found[at]) for at in sorted(found)]


def _recall(memory: Memory, batch: Batch) -> Survey | None:
    remembered = memory.recall("outlines", *batch)
    try:
        return remembered and Survey(
            from_columns(remembered["outlines"]),
            tuple((str(label), str(why)) for label, why in remembered["failed"]),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _keep(memory: Memory, batch: Batch, tally: Survey) -> None:
    failed = [list(failure) for failure in tally.failed]
    memory.keep({"outlines": to_columns(tally.outlines), "failed": failed}, "outlines", *batch)


# The side of whoever asks ---------------------------------------------------------------------


@dataclass(slots=True)
class _Waiting:
    """A batch whose architectures come in one after the other."""

    batch: Batch
    outlines: list[Outline] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def hear(self, told: Mapping[str, Any]) -> None:
        if "problem" in told:
            self.failed.append((told["architecture"], told["problem"]))
        else:
            self.outlines += from_columns(told["outline"])

    @property
    def is_whole(self) -> bool:
        return len(self.outlines) + len(self.failed) == len(self.batch)


def _build(batches: Sequence[Batch], memory: Memory, progress: Progress) -> dict[Batch, Survey]:
    """Every batch, kept as soon as it is whole."""
    waiting = {label: one for batch in batches for one in [_Waiting(batch)] for label in batch}
    built: dict[Batch, Survey] = {}
    progress(0, len(waiting))
    with closing(_told_by_workers(batches)) as all_told:
        for done, told in enumerate(all_told, start=1):
            one = waiting[told["architecture"]]
            one.hear(told)
            if one.is_whole:
                built[one.batch] = Survey(tuple(one.outlines), tuple(one.failed))
                _keep(memory, one.batch, built[one.batch])
            progress(done, len(waiting))
    return built


def _told_by_workers(batches: Sequence[Batch]) -> Generator[dict[str, Any], None, None]:
    """What the processes say of each architecture, in the order in which it comes."""
    count = min(MOST_WORKERS, os.cpu_count() or 1, len(batches))
    shares = [[label for batch in batches[at::count] for label in batch] for at in range(count)]
    lines: _Lines = queue.SimpleQueue()
    with _started(shares, lines) as workers:
        running = set(workers)
        while running:
            worker, line = lines.get()
            if line:
                yield worker.hear(line)
            else:
                running.remove(worker)
        problems = [problem for worker in workers for problem in worker.problems()]
    if problems:
        raise ArchitectureError(
            "not every architecture could be looked at; what was built is remembered, so run "
            "this again",
            problems,
        )


_Lines = queue.SimpleQueue[tuple["_Worker", bytes]]


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, the architectures that it is to tell of, in order, and how many it has told."""

    labels: Sequence[str]
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    told: int = 0

    def read(self, lines: _Lines) -> None:
        """Hand on whole lines; an empty one says that there are no more."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                lines.put((self, line))
        lines.put((self, b""))

    def hear(self, line: bytes) -> dict[str, Any]:
        self.told += 1
        return dict(json.loads(line))

    def problems(self) -> Iterator[str]:
        """Where it ended before it had told of all, and the last that it wrote to stderr."""
        if self.told < len(self.labels):
            code = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            yield f"{self.labels[self.told]}: its process ended with exit code {code}: {last}"


@contextmanager
def _started(shares: Sequence[Sequence[str]], lines: _Lines) -> Iterator[list[_Worker]]:
    """A process for each share; none is left behind, whatever happens."""
    with ExitStack() as stack:
        yield [stack.enter_context(_worker(labels, lines)) for labels in shares]


@contextmanager
def _worker(labels: Sequence[str], lines: _Lines) -> Iterator[_Worker]:
    with tempfile.TemporaryFile() as errors, _process(errors) as process:
        worker = _Worker(labels, process, errors)
        reading = threading.Thread(target=worker.read, args=(lines,), daemon=True)
        reading.start()
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin:  # one that has ended tells why by itself
                process.stdin.write(json.dumps(labels).encode())
            yield worker
        finally:
            process.kill()
            reading.join()


def _process(errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: the folder in which the command is run is nobody's library.
        [sys.executable, "-P", "-m", "surgery.networks.survey"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | _LEAN | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # Ctrl-C is for whoever asked, who ends the others.
        start_new_session=True,
    )


# The side of the process ----------------------------------------------------------------------


def work() -> None:
    """Read a list of architectures from stdin, and say a line of JSON about each on stdout."""
    labels = json.loads(sys.stdin.read())
    import torch

    torch.set_num_threads(1)
    for label in labels:
        print(json.dumps(_told(label)), flush=True)


def _told(label: str) -> dict[str, Any]:
    try:
        return {"architecture": label, "outline": to_columns([outline(label)])}
    except ArchitectureError as error:
        return {"architecture": label, "problem": error.message}
    except Exception as error:  # one that cannot be looked at shall not hide all the others
        return {"architecture": label, "problem": f"{type(error).__name__}: {error}"}


def outline(label: str) -> Outline:
    """Build the architecture without its initial values, and say what it is made of."""
    from surgery.heads import head_paths
    from surgery.networks.architectures import build
    from surgery.networks.deferred import DeferredInit
    from surgery.networks.describe import describe

    with DeferredInit():
        model = build(find_architecture(label))
    tensors = {spec.name: spec for spec in describe(model).tensors if spec.is_floating}
    clean = unwrap_names(tensors)
    return Outline(
        label,
        {clean[name]: spec.shape for name, spec in tensors.items()},
        head_paths(model),
    )


if __name__ == "__main__":
    work()
