"""Bytes from file to file, in the kernel where it can, and bytes from memory to a file."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from surgery.checkpoint.pieces import PIECE, pieces
from surgery.checkpoint.places import Region
from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.source import OneAtATime, Reader
from surgery.checkpoint.writing.segments import Bytes, Made, Placed, merged

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


@dataclass(frozen=True, slots=True)
class Layout:
    """What a format makes of a draft: a file of ``nbytes`` bytes; ``write`` puts all of them where
    they belong.
    """

    nbytes: int
    write: Callable[[Target], None]


class Target:
    """An open file that is written to, from ``sources`` that are read one at a time.

    Whoever has put all there is calls :meth:`flush`. All methods raise CheckpointError where a
    source has changed or ends early, and OSError where the file takes no more.
    """

    def __init__(self, file: int, sources: OneAtATime, progress: Progress = unwatched) -> None:
        self._file = file
        self._sources = sources
        self._progress = progress
        self._gathered = bytearray()
        self._gathered_at = 0
        self._in_kernel = hasattr(os, "copy_file_range")

    def write(self, placed: Iterable[Placed]) -> None:
        """Every segment at its place; ``placed`` is in the order of the file."""
        for part in merged(placed):
            if isinstance(part.segment, Made):
                self._put_all(part, part.segment.pieces())
            else:
                self._copy(part.offset, part.segment)

    def write_behind_header(self, part: Placed, at: int, header: Callable[[int], Bytes]) -> int:
        """One segment at its place, and at ``at`` a header made of its CRC-32, which is returned.

        A range whose checksum its own file records is copied with it, and is not looked at.
        """
        segment = part.segment
        if isinstance(segment, Made):
            buffers = segment.pieces()
        elif segment.crc is None:
            buffers = pieces(segment, self._sources.reader(segment.source))
        else:
            self.put(at, header(segment.crc))
            self._copy(part.offset, segment)
            return segment.crc
        if segment.nbytes < _SMALL:  # in the order of the file, so that it is gathered
            data = b"".join(buffers)
            self.put(at, header(crc := zlib.crc32(data)))
            self._put_all(part, (data,))
        else:
            self.put(at, header(crc := self._put_all(part, buffers, checksum=True)))
        return crc

    def _put_all(self, part: Placed, buffers: Iterable[Bytes], *, checksum: bool = False) -> int:
        crc, at = 0, part.offset
        for data in buffers:
            crc = zlib.crc32(data, crc) if checksum else 0
            self.put(at, data)
            at += len(data)
        assert at == part.end, "pieces add up to the size that was announced"
        return crc

    def _copy(self, offset: int, segment: Region) -> None:
        """Copy in the kernel; a short range is gathered with its neighbours."""
        reader = self._sources.reader(segment.source)
        if segment.nbytes < _SMALL:
            self.put(offset, reader.read(segment.start, segment.nbytes))
            return
        self.flush()
        done = 0
        while done < segment.nbytes:
            start, at = segment.start + done, offset + done
            count = min(_STRIDE, segment.nbytes - done)
            moved = self._move(reader, start, at, count)
            if not moved:
                moved = os.pwrite(self._file, reader.read(start, min(count, PIECE)), at)
            self._written(at, moved)
            done += moved

    def put(self, offset: int, piece: Bytes) -> None:
        """Write from memory; small pieces that follow one another go together."""
        data = memoryview(piece).cast("B")
        if self._gathered_at + len(self._gathered) != offset:
            self.flush()
            self._gathered_at = offset
        if data.nbytes < _GATHERED:
            self._gathered += data
            if len(self._gathered) >= _GATHERED:
                self.flush()
            return
        self.flush()
        self._write(offset, data)

    def flush(self) -> None:
        """Write what was gathered."""
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
        """Some of ``count`` bytes, in the kernel, which may share blocks instead of copying; none
        where it cannot between these two files.
        """
        moved = 0
        if self._in_kernel:
            try:
                moved = os.copy_file_range(reader.fileno(), self._file, count, start, at)
            except OSError as error:
                if error.errno == errno.EIO:  # raises where it is the source that fails
                    for done in range(0, count, PIECE):
                        reader.read(start + done, min(PIECE, count - done))
                if error.errno not in _NOT_HERE:
                    raise
            # Some file systems answer 0 for what they cannot copy; a plain read tells the truth.
            self._in_kernel = moved > 0
        return moved
