"""Bytes from file to file, in the kernel where it can, and bytes from memory to a file."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType

from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.source import OneAtATime, Reader
from surgery.checkpoint.writing.segments import Bytes, Copied, Placed, Segment, merged

#: Bytes handed to the kernel at once: Ctrl-C and progress wait no longer than these take.
_STRIDE = 1 << 26
#: Below this a call costs more than the bytes; they are gathered in memory first.
_SMALL = 1 << 16
_GATHERED = 1 << 20

# What a kernel or a file system answers that cannot copy in this way between these two files.
_NOT_HERE = frozenset(
    {
        errno.EXDEV,
        errno.ENOSYS,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.EPERM,
        errno.EBADF,
        errno.ETXTBSY,
        errno.EOVERFLOW,
    }
)


def reserve(file: int, nbytes: int) -> None:
    """Take room for the whole file, so that a full disk says so before any work is done.

    Where the file system cannot reserve, a full disk says so later.
    """
    if not nbytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, nbytes)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise


class Target:
    """An open file that is written to, and the source that is being read.

    Used with ``with``: at the end everything gathered is written, and the source is checked for
    changes. All methods raise CheckpointError where a source has changed or ends early, and
    OSError where the file takes no more.
    """

    def __init__(self, file: int, progress: Progress = untold) -> None:
        self._file = file
        self._progress = progress
        self._gathered = bytearray()
        self._gathered_at = 0
        self._sources = OneAtATime()
        self._ways = _ways()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._sources.__exit__(kind, error, trace)
            return
        with self._sources:
            self._flush()

    def write(self, placed: Iterable[Placed]) -> None:
        """Every segment at its place; ``placed`` is in the order of the file."""
        for part in merged(placed):
            self.write_part(part)

    def write_part(self, part: Placed) -> None:
        """One segment at its place."""
        if isinstance(part.segment, Copied):
            self._copy(part.offset, part.segment)
            return
        self._put_all(part, part.segment.pieces())

    def write_behind_header(self, part: Placed, at: int, header: Callable[[int], Bytes]) -> int:
        """One segment at its place, and at ``at`` a header made of its CRC-32, which is returned.

        A range whose checksum its own file records is copied with it, and is not looked at.
        """
        segment = part.segment
        if isinstance(segment, Copied) and segment.crc is not None:
            self.put(at, header(segment.crc))
            self._copy(part.offset, segment)
            return segment.crc
        if segment.nbytes < _SMALL:  # in the order of the file, so that it is gathered
            data = b"".join(self._pieces(segment))
            self.put(at, header(crc := zlib.crc32(data)))
            self._put_all(part, (data,))
            return crc
        crc = self._put_all(part, self._pieces(segment), checksum=True)
        self.put(at, header(crc))
        return crc

    def _put_all(self, part: Placed, pieces: Iterable[Bytes], *, checksum: bool = False) -> int:
        crc, at = 0, part.offset
        for piece in pieces:
            crc = zlib.crc32(piece, crc) if checksum else 0
            self.put(at, piece)
            at += len(piece)
        assert at == part.end, "pieces add up to the size that was announced"
        return crc

    def _copy(self, offset: int, segment: Copied) -> None:
        """Copy in the kernel; a short range is gathered with its neighbours."""
        reader = self._sources.reader(segment.source)
        if segment.nbytes < _SMALL:
            self.put(offset, reader.read(segment.start, segment.nbytes))
            return
        self._flush()
        done = 0
        while done < segment.nbytes:
            start, at = segment.start + done, offset + done
            count = min(_STRIDE, segment.nbytes - done)
            count = self._move(reader, start, at, count) or self._carry(reader, start, at, count)
            self._written(at, count)
            done += count

    def _pieces(self, segment: Segment) -> Iterable[Bytes]:
        if isinstance(segment, Copied):
            return _read(self._sources.reader(segment.source), segment)
        return segment.pieces()

    def put(self, offset: int, piece: Bytes) -> None:
        """Write from memory; small pieces that follow one another go together."""
        data = memoryview(piece).cast("B")
        if self._gathered_at + len(self._gathered) != offset:
            self._flush()
            self._gathered_at = offset
        if data.nbytes < _GATHERED:
            self._gathered += data
            if len(self._gathered) >= _GATHERED:
                self._flush()
            return
        self._flush()
        self._write(offset, data)

    def _flush(self) -> None:
        if self._gathered:
            self._write(self._gathered_at, memoryview(self._gathered))
            self._gathered_at += len(self._gathered)
            self._gathered = bytearray()

    def _write(self, offset: int, data: memoryview) -> None:
        while data:
            count = os.pwrite(self._file, data[:_STRIDE], offset)
            self._written(offset, count)
            data, offset = data[count:], offset + count

    def _written(self, at: int, count: int) -> None:
        """Have the disk begin now, while the next bytes are copied, and not when all are there.

        Linux writes pages out when it hears that they are not needed (mm/fadvise.c), and keeps
        those that it is still writing.
        """
        if count >= _GATHERED and hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # advice, which a file system may not take
                os.posix_fadvise(self._file, at, count, os.POSIX_FADV_DONTNEED)
        self._progress(count)

    def _move(self, reader: Reader, start: int, at: int, count: int) -> int:
        """Some of ``count`` bytes, by the best way that has not failed between these files yet;
        none where no way is left.
        """
        while self._ways:
            try:
                moved = self._ways[0](reader.fileno(), self._file, start, at, count)
            except OSError as error:
                if error.errno == errno.EIO:
                    _read_through(reader, start, count)  # raises where it is the source that fails
                if error.errno not in _NOT_HERE:
                    raise
                moved = 0
            if moved:
                return moved
            # Some file systems answer 0 for what they cannot copy; a plain read tells the truth.
            self._ways.pop(0)
        return 0

    def _carry(self, reader: Reader, start: int, at: int, count: int) -> int:
        """Some of ``count`` bytes, through memory."""
        return os.pwrite(self._file, reader.read(start, min(count, _GATHERED)), at)


def _read(reader: Reader, segment: Copied) -> Iterator[bytearray]:
    for done in range(0, segment.nbytes, _GATHERED):
        yield reader.read(segment.start + done, min(_GATHERED, segment.nbytes - done))


def _read_through(reader: Reader, start: int, count: int) -> None:
    for done in range(0, count, _GATHERED):
        reader.read(start + done, min(_GATHERED, count - done))


_Way = Callable[[int, int, int, int, int], int]


def _ways() -> list[_Way]:
    """Best first. The first one also shares blocks instead of copying, where that can be done."""
    ways: list[_Way] = []
    if hasattr(os, "copy_file_range"):
        ways.append(_copy_file_range)
    if hasattr(os, "sendfile"):
        ways.append(_sendfile)
    return ways


def _copy_file_range(source: int, target: int, start: int, at: int, count: int) -> int:
    return os.copy_file_range(source, target, count, start, at)


def _sendfile(source: int, target: int, start: int, at: int, count: int) -> int:
    os.lseek(target, at, os.SEEK_SET)
    return os.sendfile(target, source, start, count)
