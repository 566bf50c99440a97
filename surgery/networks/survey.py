"""The outlines of all known architectures: built once for the installed code, then remembered.

To build all of timm and torchvision takes minutes, so processes of their own do it, and what one
of them has answered is kept at once: an interrupted survey goes on where it was.

Nothing is left out by a guess at its family. Building one member of each family first, comparing
names without their numbers, and then building the five best families alone was measured: it takes
a sixth of the time, and misses the right architecture in 60 of 1,492 (all CoAtNets among them).

The processes are fresh interpreters. What the caller has imported or registered is not theirs, so
what they answer may be remembered whatever the caller did; and their memory is theirs.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from surgery.collecting import collector_paused
from surgery.errors import ArchitectureError
from surgery.json_values import fields, items, texts
from surgery.networks.architectures import list_architectures
from surgery.networks.remembered import Memory, Outline, from_columns, open_memory, to_columns

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

    outlines: tuple[Outline, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: Survey) -> Survey:
        return Survey(self.outlines + other.outlines, self.failed + other.failed)

    def __len__(self) -> int:
        return len(self.outlines) + len(self.failed)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal value."""
        return {"outlines": to_columns(self.outlines), "failed": [list(f) for f in self.failed]}

    @classmethod
    def from_dict(cls, data: object) -> Survey:
        """The inverse of :meth:`to_dict`. Any other data raise ValueError."""
        outlines, failed = fields(data, "outlines", "failed")
        pairs = ((label, why) for label, why in map(texts, items(failed)))
        return cls(from_columns(outlines), tuple(pairs))


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
        found = {batch: _recall(memory, batch) for batch in batches}
        missing = [batch for batch, known in found.items() if known is None]
        if missing:
            found |= _build(missing, memory, progress)
    whole = [known for known in found.values() if known is not None]
    return Survey(
        tuple(outline for known in whole for outline in known.outlines),
        tuple(failure for known in whole for failure in known.failed),
    )


def _batches(labels: Iterable[str]) -> list[Batch]:
    found: dict[int, list[str]] = {}
    for label in sorted(dict.fromkeys(labels)):
        found.setdefault(zlib.crc32(label.encode()) % BATCHES, []).append(label)
    return [tuple(found[at]) for at in sorted(found)]


def _recall(memory: Memory, batch: Batch) -> Survey | None:
    try:
        return Survey.from_dict(memory.recall("outlines", *batch))
    except ValueError:
        return None


def _build(batches: Sequence[Batch], memory: Memory, progress: Progress) -> dict[Batch, Survey]:
    """Every batch, kept as soon as it is whole."""
    batch_of = {label: batch for batch in batches for label in batch}
    built = dict.fromkeys(batches, Survey())
    progress(0, len(batch_of))
    with closing(_answers(batches)) as answers:
        for done, answer in enumerate(answers, start=1):
            label = answer["architecture"]
            batch = batch_of[label]
            built[batch] += (
                Survey(failed=((label, answer["problem"]),))
                if "problem" in answer
                else Survey(from_columns(answer["outline"]))
            )
            if len(built[batch]) == len(batch):
                memory.keep(built[batch].to_dict(), "outlines", *batch)
            progress(done, len(batch_of))
    return built


def _answers(batches: Sequence[Batch]) -> Generator[dict[str, Any], None, None]:
    """What the processes say of each architecture, in the order in which it comes."""
    count = min(MOST_WORKERS, os.cpu_count() or 1, len(batches))
    shares = [[label for batch in batches[at::count] for label in batch] for at in range(count)]
    lines: _Lines = queue.SimpleQueue()
    with ExitStack() as stack:  # no process is left behind, whatever happens
        workers = [stack.enter_context(_worker(labels, lines)) for labels in shares]
        running = set(workers)
        while running:
            worker, line = lines.get()
            if line:
                worker.answered += 1
                yield json.loads(line)
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
    """A process, the architectures that it is to look at, in order, and how many it has."""

    labels: Sequence[str]
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    answered: int = 0

    def read(self, lines: _Lines) -> None:
        """Hand on whole lines; an empty one says that there are no more."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                lines.put((self, line))
        lines.put((self, b""))

    def problems(self) -> Iterator[str]:
        """Where it ended before it was through, and the last that it wrote to stderr."""
        if self.answered < len(self.labels):
            code = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            yield f"{self.labels[self.answered]}: its process ended with exit code {code}: {last}"


@contextmanager
def _worker(labels: Sequence[str], lines: _Lines) -> Iterator[_Worker]:
    with tempfile.TemporaryFile() as errors, _process(errors) as process:
        worker = _Worker(labels, process, errors)
        reading = threading.Thread(target=worker.read, args=(lines,), daemon=True)
        reading.start()
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin:  # one that has ended says why by itself
                process.stdin.write(json.dumps(labels).encode())
            yield worker
        finally:
            process.kill()
            reading.join()


def _process(errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: the folder in which the command is run is nobody's library.
        [sys.executable, "-P", "-m", "surgery.networks.outlining"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | _LEAN | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # Ctrl-C is for whoever started the survey, who ends the others.
        start_new_session=True,
    )
