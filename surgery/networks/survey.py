"""The outlines of all known architectures: built once for the installed code, then remembered.

To build all of timm and torchvision takes minutes, so processes of their own do it, and what one
of them has answered is kept: an interrupted survey goes on where it was.

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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import IO, cast

from surgery.collecting import collector_paused
from surgery.errors import ArchitectureError
from surgery.json_values import items
from surgery.networks.architectures import list_architectures
from surgery.networks.identification import Outline
from surgery.networks.remembered import Memory, open_memory

#: Answers after which all of them are kept again, which takes a second.
_OFTEN = 100

#: Processes at a time, as far as there are processors: each takes 1 GB.
MOST_WORKERS = 4

#: For glibc: whatever is large goes back to the system when it is freed. By default it comes to
#: keep such memory, and a process that built one model after the other held 5 GB in the end.
_LEAN = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}

#: Called with the number of architectures done and of all.
Progress = Callable[[int, int], None]


def survey(
    labels: Iterable[str] | None = None, *, progress: Progress = lambda done, total: None
) -> tuple[Outline, ...]:
    """The outlines of these architectures (``"timm:resnet50"``), of all where none are given.

    ``progress`` is called while any have to be built. Raises
    :class:`~surgery.errors.ArchitectureError` where the building ends early; what was done until
    then is remembered.
    """
    memory = open_memory(fresh=True)
    with collector_paused():
        labels = sorted({*(list_architectures() if labels is None else labels)})
        known = _recall(memory)
        missing = [label for label in labels if label not in known]
        if missing:
            _build(missing, known, memory, progress)
    return tuple(known[label] for label in labels)


def _recall(memory: Memory) -> dict[str, Outline]:
    """What is remembered, by the architecture; nothing where any of it cannot be read."""
    try:
        outlines = map(Outline.from_dict, items(memory.recall("outlines")))
        return {outline.architecture: outline for outline in outlines}
    except ValueError:
        return {}


def _keep(memory: Memory, known: Mapping[str, Outline]) -> None:
    memory.keep([outline.to_dict() for outline in known.values()], "outlines")


def _build(
    labels: Sequence[str], known: dict[str, Outline], memory: Memory, progress: Progress
) -> None:
    """Add what the processes say to what is known, which is kept however this ends."""
    progress(0, len(labels))
    try:
        with closing(_outlines(labels)) as outlines:
            for done, outline in enumerate(outlines, start=1):
                known[outline.architecture] = outline
                if done % _OFTEN == 0:
                    _keep(memory, known)
                progress(done, len(labels))
    finally:
        _keep(memory, known)


#: What the processes say: of an architecture, or at its end, each with the problem it had.
_Said = queue.SimpleQueue[Outline | str]


def _outlines(labels: Sequence[str]) -> Generator[Outline, None, None]:
    """What the processes say of each architecture, in the order in which it comes."""
    count = min(MOST_WORKERS, os.cpu_count() or 1, len(labels))
    said: _Said = queue.SimpleQueue()
    ended: list[str] = []
    with ExitStack() as stack:  # no process is left behind, whatever happens
        for at in range(count):
            stack.enter_context(_worker(labels[at::count], said))
        while len(ended) < count:
            match said.get():
                case Outline() as outline:
                    yield outline
                case problem:
                    ended.append(problem)
    if any(ended):
        raise ArchitectureError(
            "not every architecture could be looked at; what was built is remembered, so run "
            "this again",
            filter(None, ended),
        )


@contextmanager
def _worker(labels: Sequence[str], said: _Said) -> Iterator[None]:
    """A process that looks at these architectures, in order."""
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as errors:
        asked.write(json.dumps(labels).encode())
        asked.seek(0)
        with subprocess.Popen(
            # -P: the folder in which the command is run is nobody's library.
            [sys.executable, "-P", "-m", "surgery.networks.outlining"],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | _LEAN | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # Ctrl-C is for whoever started the survey, who ends the others.
            start_new_session=True,
        ) as process:
            reading = threading.Thread(
                target=_read, args=(process, labels, errors, said), daemon=True
            )
            reading.start()
            try:
                yield
            finally:
                process.kill()
                reading.join()


def _read(
    process: subprocess.Popen[bytes], labels: Sequence[str], errors: IO[bytes], said: _Said
) -> None:
    """Hand on what a process says; and where it ended before it was through, with the last that
    it wrote to stderr.
    """
    answered = 0
    for line in cast("IO[bytes]", process.stdout):
        if line.endswith(b"\n"):
            said.put(Outline.from_dict(json.loads(line)))
            answered += 1
    code = process.wait()
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    early = f"its process ended with exit code {code}: {last}"
    said.put(f"{labels[answered]}: {early}" if answered < len(labels) else "")
