"""A draft as a file for ``torch.load``: a zip archive of a pickle and one member a storage.

The members are those of ``torch/serialization.py`` (``_save``); the archive's own records are
those of PKWARE's APPNOTE.TXT 6.3, 4.3 and 4.5. Every member is stored, its bytes begin at a
multiple of 64, and its CRC-32 is there: what is copied from a zip member brings its own along,
unread, so that a source which was damaged, or written without checksums, still looks it.

Torch's ``.format_version`` is left out: it promises members at the offsets that torch's own writer
would choose, and ``torch.load`` may then compute them instead of reading them
(``torch.utils.serialization.config.load.calculate_storage_offsets``).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from surgery.checkpoint.formats.zipped import END, END64, END64_LOCATOR, ENTRY, LOCAL
from surgery.checkpoint.pickles.pickler import StoredTensor, Unpicklable, pickled
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.moving import Layout, Target
from surgery.checkpoint.writing.segments import (
    Placed,
    Segment,
    literal,
    segment_of,
    shared_residue,
)
from surgery.checkpoint.writing.values import Values, is_tensor
from surgery.specs import TensorSpec
from surgery.wording import printable

_TOP = "archive"
_ALIGNMENT = 64
_LARGE = 1 << 20

_EXTRA = struct.Struct("<2H")
# Room for both sizes in 64 bits, kept in every local header: the padding takes what is left.
_ZIP64_LOCAL = _EXTRA.size + 16
_NARROW, _NARROW_COUNT = 0xFFFFFFFF, 0xFFFF
_ZIP64_EXTRA, _PADDING_EXTRA = 1, 0x4246  # the second is torch's own: "FB"
_VERSION, _VERSION64 = 20, 45
_FIRST_OF_1980 = 0x21


def problems(draft: Draft) -> list[str]:
    """What the format cannot keep of a draft, in words."""
    return [
        f"{printable(name)}: {problem}"
        for name, value in draft.extras.items()
        if (problem := _extra_problem(value))
    ]


def lay_out(draft: Draft) -> Layout:
    """The whole file. ``draft`` has no problems."""
    members = tuple(_members(draft))
    directory_at = members[-1].data.end
    end = directory_at + sum(ENTRY.size + len(m.name) + len(_wide(m, header=True)) for m in members)
    closing = _closing(len(members), directory_at, end - directory_at)

    def write(target: Target) -> None:
        checksums = []
        for member in members:
            header = partial(_local, member)
            checksums.append(target.write_behind_header(member.data, member.header, header))
        at = directory_at
        for member, crc in zip(members, checksums, strict=True):
            target.put(at, entry := _entry(member, crc))
            at += len(entry)
        target.put(end, closing)

    return Layout(end + len(closing), write)


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of the archive: where its local header begins, and where its bytes are."""

    name: bytes
    header: int
    data: Placed


def _members(draft: Draft) -> Iterator[_Member]:
    storages = _Storages()
    stored = {name: storages.store(draft.values[name]) for name in draft.specs}
    named = {name: stored[draft.aliases.get(name, name)] for name in draft.values}
    attributes: dict[str, Any] = {}
    if draft.versions:
        attributes["_metadata"] = OrderedDict(
            (path, {"version": version}) for path, version in draft.versions.items()
        )
    if draft.metadata:
        attributes["_surgery"] = dict(draft.metadata)
    text = pickled({**named, **draft.extras}, attributes, storages)
    records: dict[str, Segment] = {
        "data.pkl": literal(text),
        "byteorder": literal(b"little"),
        **{f"data/{key}": segment for key, segment in storages.segments.items()},
        "version": literal(b"3\n"),
    }
    at = 0
    for name, segment in records.items():
        member = _member(f"{_TOP}/{name}".encode(), at, segment)
        yield member
        at = member.data.end


def _member(name: bytes, at: int, segment: Segment) -> _Member:
    """Behind the local header comes padding, so that the bytes begin where they should.

    A large range begins at the same place within a block as in its source, if that is aligned.
    """
    first = at + LOCAL.size + len(name) + _ZIP64_LOCAL + _EXTRA.size
    aligned = first + -first % _ALIGNMENT
    shift = shared_residue([Placed(aligned, segment)], _ALIGNMENT) if segment.nbytes > _LARGE else 0
    return _Member(name, at, Placed(aligned + shift, segment))


class _Storages:
    """Gives every tensor a storage of its own, those among the entries that are no tensors too."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}

    def store(self, values: Values) -> StoredTensor:
        spec, segment, key = TensorSpec.of("", values), segment_of(values), str(len(self.segments))
        self.segments[key] = segment
        return StoredTensor(key, spec.dtype, spec.shape, segment.nbytes)

    def __call__(self, value: Any) -> StoredTensor | None:
        if isinstance(value, StoredTensor):
            return value
        if not is_tensor(value):
            return None
        from surgery.checkpoint.tensors.memory import tensor_problem

        if problem := tensor_problem(value):
            raise Unpicklable(problem)
        return self.store(value)


def _extra_problem(value: Any) -> str | None:
    try:
        pickled({"": value}, {}, _Storages())
    except Unpicklable as problem:
        return str(problem)
    return None


def _local(member: _Member, crc: int) -> bytes:
    """The local header, up to the first byte of the data."""
    size = member.data.segment.nbytes
    wide = _wide(member, header=False)
    padding = member.data.offset - member.header - LOCAL.size - len(member.name) - len(wide)
    extra = wide + _EXTRA.pack(_PADDING_EXTRA, padding - _EXTRA.size).ljust(padding, b"Z")
    narrow = min(size, _NARROW)
    fixed = LOCAL.pack(
        b"PK\x03\x04", _needs(wide), 0, 0, 0, _FIRST_OF_1980, crc, narrow, narrow,
        len(member.name), len(extra),
    )  # fmt: skip
    return fixed + member.name + extra


def _entry(member: _Member, crc: int) -> bytes:
    """The member's line in the directory."""
    wide = _wide(member, header=True)
    size = min(member.data.segment.nbytes, _NARROW)
    fixed = ENTRY.pack(
        b"PK\x01\x02", _needs(wide), _needs(wide), 0, 0, 0, _FIRST_OF_1980, crc, size, size,
        len(member.name), len(wide), 0, 0, 0, 0, min(member.header, _NARROW),
    )  # fmt: skip
    return fixed + member.name + wide


def _wide(member: _Member, *, header: bool) -> bytes:
    """What does not fit 32 bits, as an extra field: both sizes, and where the header begins."""
    size = member.data.segment.nbytes
    numbers = [size, size] if size >= _NARROW else []
    if header and member.header >= _NARROW:
        numbers.append(member.header)
    if not numbers:
        return b""
    return _EXTRA.pack(_ZIP64_EXTRA, 8 * len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers)


def _needs(wide: bytes) -> int:
    return _VERSION64 if wide else _VERSION


def _closing(count: int, at: int, nbytes: int) -> bytes:
    """The records at the end of the file, which say where the directory is."""
    wide = b""
    if count >= _NARROW_COUNT or max(at, nbytes) >= _NARROW:
        wide = END64.pack(
            b"PK\x06\x06", END64.size - 12, _VERSION64, _VERSION64, 0, 0, count, count, nbytes, at
        ) + END64_LOCATOR.pack(b"PK\x06\x07", 0, at + nbytes, 1)
    narrow = min(count, _NARROW_COUNT)
    return wide + END.pack(
        b"PK\x05\x06", 0, 0, narrow, narrow, min(nbytes, _NARROW), min(at, _NARROW), 0
    )
