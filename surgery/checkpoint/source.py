"""One file that is read from: opened when needed, watched for change, never read past its end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from surgery.errors import CheckpointError
from surgery.wording import printable


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file as it was when first looked at.

    Values that point into a file keep a Source, not an open handle, so that a checkpoint can
    be kept for as long as one likes. ``version`` is the device, inode and modification time
    (nanoseconds): a file that has changed since is refused, its offsets mean nothing any more.
    """

    path: Path
    size: int
    version: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> Source:
        """Look at ``path``. Raises CheckpointError for anything that is not a regular file."""
        try:
            status = path.stat()
        except OSError as error:
            raise denied(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{printable(path)}: {kind_of(status.st_mode)}, not a file")
        return cls(path, status.st_size, _version(status))

    @property
    def label(self) -> str:
        """The path as it appears in messages."""
        return printable(self.path)

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """The file for reading. Raises CheckpointError where it changed before or meanwhile."""
        try:
            file = FileIO(self.path)
        except OSError as error:
            raise denied(self.path, error) from error
        with file:
            self._check(file)
            yield Reader(self, file)
            self._check(file)

    def _check(self, file: FileIO) -> None:
        status = os.fstat(file.fileno())
        if (status.st_size, _version(status)) != (self.size, self.version):
            raise CheckpointError(f"{self.label}: changed since it was opened; open it again")


class Reader:
    """An open :class:`Source`."""

    def __init__(self, source: Source, file: FileIO) -> None:
        self.source = source
        #: Where the storage that was inflated last begins, and its bytes.
        self.inflated: tuple[int, bytes] | None = None
        self._file = file

    def fileno(self) -> int:
        """The open file, for the kernel."""
        return self._file.fileno()

    def check_range(self, start: int, count: int) -> None:
        """Raise CheckpointError unless the file has ``count`` bytes from ``start``."""
        if start + count > self.source.size:
            raise CheckpointError(
                f"{self.source.label}: cut short: expected {start + count:,} bytes, "
                f"have {self.source.size:,}; copy or download it again"
            )

    def read(self, start: int, count: int) -> bytearray:
        """Exactly ``count`` bytes from ``start``, in memory of the caller's own."""
        self.check_range(start, count)
        data = bytearray(count)
        self.read_into(start, memoryview(data))
        return data

    def read_into(self, start: int, memory: memoryview) -> None:
        """Fill ``memory``, bytes of the caller's, with what begins at ``start``."""
        self.check_range(start, memory.nbytes)
        try:
            self._file.seek(start)
            self._fill(memory)
        except OSError as error:
            raise denied(self.source.path, error) from error

    def _fill(self, rest: memoryview) -> None:
        """A single read may stop short: Linux gives at most 2 GiB at once."""
        while rest:
            got = self._file.readinto(rest)
            if not got:
                raise CheckpointError(f"{self.source.label}: became shorter while it was read")
            rest = rest[got:]


class OneAtATime(ExitStack):
    """Opens sources in turn, for work that goes from tensor to tensor; used with ``with``.

    A checkpoint may have more shards than a process may have open files. Every source is checked
    for changes as it is closed, unless something else went wrong.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reader: Reader | None = None

    def reader(self, source: Source) -> Reader:
        """The source, open; the one before it is closed."""
        if self._reader is None or self._reader.source != source:
            self.close()
            self._reader = self.enter_context(source.opened())
        return self._reader


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def kind_of(mode: int) -> str:
    """What a path that is no regular file is, in words."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def denied(path: Path, error: OSError, what: str = "cannot be read") -> CheckpointError:
    """The error for what the system would not do with a file."""
    return CheckpointError(f"{printable(path)}: {what}: {error.strerror or error}")
