"""The members of a zip file, from its central directory. PKWARE's APPNOTE.TXT 6.3, 4.3 and 4.5.

Only what torch's files need, and strictly: no encryption, no split archives, no two members of
one name, and a member's local header must agree with the directory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from surgery.checkpoint.places import Region
from surgery.checkpoint.source import Reader
from surgery.errors import CheckpointError
from surgery.wording import printable

#: The records of the archive: at its end, in its directory, and in front of each member.
END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")

_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_ENCRYPTED = 1
_STORED, _DEFLATED = 0, 8
_WINDOW = 1 << 13
# Deflate cannot do better (zlib's technical notes); a directory that says so lies.
_BEST_RATIO = 1032


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the directory. ``header`` is where its local header begins."""

    name: str
    flags: int
    method: int
    stored: int
    size: int
    header: int
    crc: int


def is_zip(reader: Reader) -> bool:
    """Whether it begins as a zip file does, or is one without members."""
    start = bytes(reader.read(0, min(4, reader.source.size)))
    return start in (b"PK\x03\x04", b"PK\x05\x06")


class Archive:
    """A zip file: its ``members`` by name, in the directory's order, and where their bytes lie."""

    def __init__(self, reader: Reader) -> None:
        """Read the directory. Raises CheckpointError."""
        self.members: dict[str, Member] = {}
        self._reader = reader
        self._window, self._window_start = b"", 0
        start, length, count = _find_directory(reader)
        data = bytes(reader.read(start, length))
        at = 0
        for _ in range(count):
            member, at = _entry(reader, data, at)
            if member.name in self.members:
                raise _damaged(reader, f"two members are called {printable(member.name)}")
            self.members[member.name] = member

    def region(self, member: Member, *, swapped: bool = False) -> Region:
        """Where its bytes lie. Raises CheckpointError for a member that cannot be read."""
        if problem := _problem(member):
            raise _damaged(self._reader, f"{printable(member.name)}{problem}")
        start = self._data_start(member)
        if start + member.stored > self._reader.source.size:
            raise _damaged(
                self._reader, f"{printable(member.name)} ends beyond the end of the file"
            )
        return Region(
            self._reader.source,
            start,
            member.stored,
            member.size,
            deflated=member.method == _DEFLATED,
            swapped=swapped,
            crc=member.crc,
        )

    def _data_start(self, member: Member) -> int:
        raw_name = member.name.encode("utf-8", "surrogateescape")
        size = LOCAL.size + len(raw_name)
        header = self._read(member.header, size)
        fields = LOCAL.unpack_from(header)
        signature, method, name_length, extra_length = fields[0], fields[3], fields[9], fields[10]
        found = signature, header[LOCAL.size :], name_length, method
        if found != (b"PK\x03\x04", raw_name, len(raw_name), member.method):
            raise _damaged(
                self._reader, f"the header of {printable(member.name)} disagrees with the directory"
            )
        return int(member.header + size + extra_length)

    def _read(self, start: int, count: int) -> bytes:
        """From the last window, or from a new one: small members follow closely."""
        at = start - self._window_start
        if at < 0 or at + count > len(self._window):
            most = max(count, min(_WINDOW, self._reader.source.size - start))
            self._window, self._window_start, at = bytes(self._reader.read(start, most)), start, 0
        return self._window[at : at + count]


def _problem(member: Member) -> str | None:
    """What the directory alone tells against a member."""
    if member.flags & _ENCRYPTED:
        return " is encrypted"
    if member.method not in (_STORED, _DEFLATED):
        return f" is compressed by method {member.method}, not deflate"
    if member.method == _STORED and member.stored != member.size:
        return f": expected {member.size:,} bytes, have {member.stored:,}"
    if member.size > _BEST_RATIO * member.stored + 64:
        return f" claims {member.size:,} bytes of {member.stored:,} stored"
    return None


def _find_directory(reader: Reader) -> tuple[int, int, int]:
    """Its start, its bytes, its number of entries."""
    size = reader.source.size
    tail_start = max(0, size - END.size - _LONGEST_COMMENT)
    tail = reader.read(tail_start, size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        raise CheckpointError(
            f"{reader.source.label}: cut short: a zip file of {size:,} bytes without the "
            "directory that ends one; copy or download it again"
        )
    _, disk, first_disk, _, count, length, start, _ = END.unpack_from(tail, at)
    end = tail_start + at
    if _IN_EXTRA in (length, start) or count == 0xFFFF:
        disk, first_disk, count, length, start, end = _find_directory64(reader, end)
    if disk or first_disk:
        raise _damaged(reader, "it is one part of an archive in several files")
    if start + length > end:
        raise _damaged(reader, f"expected its directory at byte {start:,}, before byte {end:,}")
    return start, length, count


def _find_directory64(reader: Reader, end: int) -> tuple[int, int, int, int, int, int]:
    at = end - END64_LOCATOR.size
    if at >= 0:
        signature, _, record, _ = END64_LOCATOR.unpack(reader.read(at, END64_LOCATOR.size))
        if signature == b"PK\x06\x07" and record + END64.size <= at:
            fields = END64.unpack(reader.read(record, END64.size))
            if fields[0] == b"PK\x06\x06":
                _, _, _, _, disk, first_disk, _, count, length, start = fields
                return disk, first_disk, count, length, start, record
    raise _damaged(reader, "its 64-bit directory is missing")


def _entry(reader: Reader, data: bytes, at: int) -> tuple[Member, int]:
    """The entry at ``at``, and where the next one begins."""
    if at + ENTRY.size > len(data):
        raise _damaged(reader, "its directory ends early")
    fields = ENTRY.unpack_from(data, at)
    signature, flags, method = fields[0], fields[3], fields[4]
    crc, stored, size, name_length, extra_length, comment_length = fields[7:13]
    header = fields[16]
    name_end = at + ENTRY.size + name_length
    extra_end = name_end + extra_length
    if signature != b"PK\x01\x02" or extra_end + comment_length > len(data):
        raise _damaged(reader, f"its directory is wrong at entry byte {at:,}")
    name = data[at + ENTRY.size : name_end].decode("utf-8", "surrogateescape")
    if _IN_EXTRA in (stored, size, header):
        size, stored, header = _wide(reader, data[name_end:extra_end], (size, stored, header))
    member = Member(name, flags, method, stored, size, header, crc)
    return member, extra_end + comment_length


def _wide(reader: Reader, extra: bytes, narrow: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sizes and offset of 64 bits: only those that did not fit their field, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_EXTRA:
            body = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            size, stored, header = (next(wide, -1) if n == _IN_EXTRA else n for n in narrow)
            if -1 not in (size, stored, header):
                return size, stored, header
        at += 4 + length
    raise _damaged(reader, "a member's 64-bit size is missing")


def _damaged(reader: Reader, problem: str) -> CheckpointError:
    return CheckpointError(f"{reader.source.label}: a damaged zip file: {problem}")
