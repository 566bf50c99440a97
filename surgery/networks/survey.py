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
from itertools import chain
from typing import IO, Any, cast

from surgery.collecting import collector_paused
from surgery.errors import ArchitectureError
from surgery.json_values import fields, items, texts
from surgery.networks.architectures import list_architectures
from surgery.networks.remembered import Memory, Outline, open_memory

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


#: What is known of an architecture: its outline, or its name and why it could not be built.
Answer = Outline | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Survey:
    """Outlines, and the architectures that could not be built, each with the reason."""

    outlines: tuple[Outline, ...]
    failed: tuple[tuple[str, str], ...]


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
    answers = [answer for known in found.values() for answer in known or ()]
    return Survey(
        tuple(answer for answer in answers if isinstance(answer, Outline)),
        tuple(answer for answer in answers if not isinstance(answer, Outline)),
    )


def _batches(labels: Iterable[str]) -> list[Batch]:
    found: dict[int, list[str]] = {}
    for label in sorted(dict.fromkeys(labels)):
        found.setdefault(zlib.crc32(label.encode()) % BATCHES, []).append(label)
    return [tuple(found[at]) for at in sorted(found)]


def _recall(memory: Memory, batch: Batch) -> list[Answer] | None:
    try:
        return [_read(answer) for answer in items(memory.recall("outlines", *batch))]
    except ValueError:
        return None


def _read(answer: object) -> Answer:
    """What a process has said of one architecture. Any other data raise ValueError."""
    if isinstance(answer, dict) and "problem" in answer:
        label, problem = texts(fields(answer, "architecture", "problem"))
        return label, problem
    return Outline.from_dict(answer)


def _build(
    batches: Sequence[Batch], memory: Memory, progress: Progress
) -> dict[Batch, list[Answer]]:
    """Every batch, kept as soon as it is whole."""
    batch_of = {label: batch for batch in batches for label in batch}
    built: dict[Batch, list[dict[str, Any]]] = {batch: [] for batch in batches}
    progress(0, len(batch_of))
    with closing(_answers(batches)) as answers:
        for done, answer in enumerate(answers, start=1):
            batch = batch_of[answer["architecture"]]
            built[batch].append(answer)
            if len(built[batch]) == len(batch):
                memory.keep(built[batch], "outlines", *batch)
            progress(done, len(batch_of))
    return {batch: [_read(answer) for answer in whole] for batch, whole in built.items()}


#: What the processes say: of an architecture, or at its end, each with the problems it had.
_Said = queue.SimpleQueue[dict[str, Any] | list[str]]


def _answers(batches: Sequence[Batch]) -> Generator[dict[str, Any], None, None]:
    """What the processes say of each architecture, in the order in which it comes."""
    count = min(MOST_WORKERS, os.cpu_count() or 1, len(batches))
    said: _Said = queue.SimpleQueue()
    problems: list[str] = []
    with ExitStack() as stack:  # no process is left behind, whatever happens
        for at in range(count):
            stack.enter_context(_worker([*chain(*batches[at::count])], said))
        while count:
            match said.get():
                case dict() as answer:
                    yield answer
                case ended:
                    problems += ended
                    count -= 1
    if problems:
        raise ArchitectureError(
            "not every architecture could be looked at; what was built is remembered, so run "
            "this again",
            problems,
        )


@contextmanager
def _worker(labels: Sequence[str], said: _Said) -> Iterator[None]:
    """A process that looks at these architectures, in order."""

    def read() -> None:
        answered = 0
        for line in cast("IO[bytes]", process.stdout):
            if line.endswith(b"\n"):
                said.put(json.loads(line))
                answered += 1
        said.put(_problems(labels[answered:], process.wait(), errors))

    with tempfile.TemporaryFile() as errors, _process(errors) as process:
        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        try:
            # One that has ended says why by itself.
            with suppress(BrokenPipeError), cast("IO[bytes]", process.stdin) as stdin:
                stdin.write(json.dumps(labels).encode())
            yield
        finally:
            process.kill()
            reading.join()


def _problems(left: Sequence[str], code: int, errors: IO[bytes]) -> list[str]:
    """Where a process ended before it was through, and the last that it wrote to stderr."""
    if not left:
        return []
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    return [f"{left[0]}: its process ended with exit code {code}: {last}"]


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
