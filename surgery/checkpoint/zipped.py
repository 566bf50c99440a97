"""The members of a zip file, from its central directory. PKWARE's APPNOTE.TXT 6.3, 4.3 and 4.5.

Only what torch's files need, and strictly: no encryption, no split archives, no two members of
one name, and a member's local header must agree with the directory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from surgery.checkpoint.regions import Region
from surgery.checkpoint.source import Reader
from surgery.checkpoint.wording import shown
from surgery.errors import CheckpointError

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_ENCRYPTED = 1
_STORED, _DEFLATED = 0, 8
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


def read_directory(reader: Reader) -> Mapping[str, Member]:
    """Every member by name, in the directory's order. Raises CheckpointError."""
    start, length, count = _find_directory(reader)
    data = bytes(reader.read(start, length))
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        member, at = _entry(reader, data, at)
        if member.name in members:
            raise _damaged(reader, f"two members are called {shown(member.name)}")
        members[member.name] = member
    return members


def member_region(reader: Reader, member: Member, *, swapped: bool = False) -> Region:
    """Where the member's bytes lie. Raises CheckpointError for a member that cannot be read."""
    name = shown(member.name)
    if member.flags & _ENCRYPTED:
        raise _damaged(reader, f"{name} is encrypted")
    if member.method not in (_STORED, _DEFLATED):
        raise _damaged(reader, f"{name} is compressed by method {member.method}, not deflate")
    if member.method == _STORED and member.stored != member.size:
        raise _damaged(reader, f"{name}: expected {member.size:,} bytes, have {member.stored:,}")
    if member.size > _BEST_RATIO * member.stored + 64:
        raise _damaged(reader, f"{name} claims {member.size:,} bytes of {member.stored:,} stored")
    start = _data_start(reader, member)
    if start + member.stored > reader.source.size:
        raise _damaged(reader, f"{name} ends beyond the end of the file")
    return Region(
        reader.source,
        start,
        member.stored,
        member.size,
        deflated=member.method == _DEFLATED,
        swapped=swapped,
        crc=member.crc,
    )


def _find_directory(reader: Reader) -> tuple[int, int, int]:
    """Its start, its bytes, its number of entries."""
    size = reader.source.size
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = reader.read(tail_start, size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise CheckpointError(
            f"{reader.source.label}: cut short: a zip file of {size:,} bytes without the "
            "directory that ends one; copy or download it again"
        )
    _, disk, first_disk, _, count, length, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if _IN_EXTRA in (length, start) or count == 0xFFFF:
        disk, first_disk, count, length, start, end = _find_directory64(reader, end)
    if disk or first_disk:
        raise _damaged(reader, "it is one part of an archive in several files")
    if start + length > end:
        raise _damaged(reader, f"expected its directory at byte {start:,}, before byte {end:,}")
    if count * _ENTRY.size > length:
        raise _damaged(reader, f"a directory of {length:,} bytes cannot list {count:,} members")
    return start, length, count


def _find_directory64(reader: Reader, end: int) -> tuple[int, int, int, int, int, int]:
    at = end - _END64_LOCATOR.size
    if at < 0:
        raise _damaged(reader, "its 64-bit directory is missing")
    signature, _, record, _ = _END64_LOCATOR.unpack(reader.read(at, _END64_LOCATOR.size))
    if signature != b"PK\x06\x07" or record + _END64.size > at:
        raise _damaged(reader, "its 64-bit directory is missing")
    fields = _END64.unpack(reader.read(record, _END64.size))
    if fields[0] != b"PK\x06\x06":
        raise _damaged(reader, "its 64-bit directory is missing")
    _, _, _, _, disk, first_disk, _, count, length, start = fields
    return disk, first_disk, count, length, start, record


def _entry(reader: Reader, data: bytes, at: int) -> tuple[Member, int]:
    """The entry at ``at``, and where the next one begins."""
    if at + _ENTRY.size > len(data):
        raise _damaged(reader, "its directory ends early")
    fields = _ENTRY.unpack_from(data, at)
    signature, flags, method = fields[0], fields[3], fields[4]
    crc, stored, size, name_length, extra_length, comment_length = fields[7:13]
    header = fields[16]
    name_end = at + _ENTRY.size + name_length
    extra_end = name_end + extra_length
    if signature != b"PK\x01\x02" or extra_end + comment_length > len(data):
        raise _damaged(reader, f"its directory is wrong at entry byte {at:,}")
    name = data[at + _ENTRY.size : name_end].decode("utf-8", "backslashreplace")
    if _IN_EXTRA in (stored, size, header):
        size, stored, header = _wide(reader, data[name_end:extra_end], (size, stored, header))
    return Member(name, flags, method, stored, size, header, crc), extra_end + comment_length


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


def _data_start(reader: Reader, member: Member) -> int:
    fields = _LOCAL.unpack(reader.read(member.header, _LOCAL.size))
    signature, method, name_length, extra_length = fields[0], fields[3], fields[9], fields[10]
    name_start = member.header + _LOCAL.size
    name = bytes(reader.read(name_start, name_length)).decode("utf-8", "backslashreplace")
    if (signature, name, method) != (b"PK\x03\x04", member.name, member.method):
        raise _damaged(reader, f"the header of {shown(member.name)} disagrees with the directory")
    return int(name_start + name_length + extra_length)


def _damaged(reader: Reader, problem: str) -> CheckpointError:
    return CheckpointError(f"{reader.source.label}: a damaged zip file: {problem}")
