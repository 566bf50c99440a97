"""A job that is killed at every call that changes files: before the call, and amid or after it.

Run as a script, without torch, so that a fork takes milliseconds: ``killing.py JOB FOLDER``
prints the number of points at which the job was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.conversion import convert
from surgery.checkpoint.writing import moving
from surgery.transfers import plan_transfer

CALLS = (
    *("pwrite", "copy_file_range", "posix_fallocate", "posix_fadvise"),
    *("fsync", "replace", "chmod", "unlink", "open", "close"),
)


def arm(point: int) -> None:
    """Kill this process before (even) or behind (odd) the ``point // 2``-th call from now on."""
    left = point // 2

    def wrapped(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **settings: object) -> object:
            nonlocal left
            left -= 1
            if left >= 0:
                return call(*args, **settings)
            if point % 2 and name == "pwrite":
                file, data, at = args
                call(file, data[: len(data) // 2], at)  # type: ignore[index, arg-type]
            elif point % 2:
                call(*args, **settings)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("still alive")

        return counted

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, wrapped(name, getattr(os, name)))


def forked(job: Callable[[], object], point: int | None = None) -> bool:
    """Whether the job ran to its end in a child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if point is not None:
                arm(point)
            job()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def values(path: Path) -> dict[str, bytes]:
    """All bytes by name."""
    opened = open_checkpoint(path)
    opened.verify(values=False).refuse_damage()
    read = {}
    for spec in opened.specs:
        region = opened.place(spec.name).region
        with region.source.opened() as reader:
            read[spec.name] = bytes(reader.read(region.start, region.nbytes))
    return read


def kill_everywhere(job: Callable[[], object], start: Path, folder: Path) -> int:
    """``folder`` is a copy of ``start`` each time: what is there is then the old or the new one,
    and after one more run nothing is there that was not there after a run without a kill.
    """

    def outputs() -> list[Path]:
        return [path for name in NAMES if (path := folder / name).exists()]

    def again() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)

    again()
    old = [values(path) for path in outputs()]
    assert forked(job)
    new = [values(path) for path in outputs()]
    clean = len(list(folder.iterdir()))
    assert len(old) == len(new) == 1
    assert old != new
    for point in range(10_000):
        again()
        if forked(job, point):
            return point
        found = [values(path) for path in outputs()]
        assert found, f"{point}: nothing is left"
        assert all(each in (*old, *new) for each in found), f"{point}: neither old nor new"
        assert forked(job)
        assert [values(path) for path in outputs()] == new
        files = sorted(path.name for path in folder.iterdir())
        assert len(files) == clean, f"{point}: litter among {files}"
    raise AssertionError("the job never ends")


NAMES = ("out.safetensors", "out.safetensors.index.json", "out.pt")


def main(job: str, folder: Path) -> None:
    """``folder`` holds ``start``, with an old output, and ``new.*`` and ``like.safetensors``."""
    start, work = folder / "start", folder / "work"
    moving._STRIDE = 1 << 15  # so that a copy is many calls

    def transferred() -> None:
        opened = open_checkpoint(folder / "new.pt")
        like = f"like:{folder / 'like.safetensors'}"
        plan_transfer(opened, like).write(work / "out.safetensors")

    jobs: dict[str, Callable[[], object]] = {
        "safetensors": lambda: convert(folder / "new.pt", work / "out.safetensors"),
        "pt": lambda: convert(folder / "new.safetensors", work / "out.pt"),
        "set": lambda: convert(folder / "new.pt", work / "out.safetensors", max_shard_size=100_000),
        "one": lambda: convert(folder / "new.pt", work / "out.safetensors", max_shard_size="1GB"),
        "transfer": transferred,
    }
    print(kill_everywhere(jobs[job], start, work))
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
