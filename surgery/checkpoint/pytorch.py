"""Files that torch.save wrote: a zip archive since torch 1.6, one stream of pickles before.

The facts are from ``torch/serialization.py``: ``_save``, ``_legacy_save``, ``_legacy_load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.checkpoint.finding import Locate, find_state_dicts, others, settle
from surgery.checkpoint.holding import Holding
from surgery.checkpoint.pickles.constructors import storage_dtype
from surgery.checkpoint.pickles.cursor import Cursor
from surgery.checkpoint.pickles.inert import Global, Malformed, Opaque, StorageRef
from surgery.checkpoint.pickles.machine import Machine
from surgery.checkpoint.pieces import pieces, read_region
from surgery.checkpoint.regions import Region
from surgery.checkpoint.source import Reader
from surgery.checkpoint.wording import listed, shown
from surgery.checkpoint.zipped import Archive, Member
from surgery.collecting import collector_paused
from surgery.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_MOST_ELEMENTS = 1 << 63

# torch.save never compresses. A pickle that someone's archiver did is a fifth of its size (real
# models and 20,000 equal tensors alike); one that shrinks far more is a bomb, as each of its
# bytes can make an object.
_FREE_DEFLATED_PICKLE = 1 << 20
_MOST_DEFLATED = 32


@dataclass(frozen=True, slots=True)
class Pickled:
    """What a file's pickle says, inert, and how to find the storages that it names."""

    format: str
    value: Any
    locate: Locate
    opaque: tuple[str, ...]


@collector_paused()
def read_zip(reader: Reader, key: str | None = None) -> Holding:
    """The state dicts of a zip archive."""
    return _holding(unpickle_zip(reader), reader, key)


@collector_paused()
def read_stream(reader: Reader, key: str | None = None) -> Holding:
    """The state dicts of a stream."""
    return _holding(unpickle_stream(reader), reader, key)


def unpickle_zip(reader: Reader) -> Pickled:
    """A zip archive: ``<top>/data.pkl``, and a member ``<top>/data/<key>`` for each storage."""
    archive = Archive(reader)
    top = _top_folder(reader, archive.members)
    label = f"{reader.source.label} ({shown(top)}/data.pkl)"
    region = archive.region(archive.members[f"{top}/data.pkl"])
    machine = Machine(_pickle_cursor(reader, region, label), _ZipIds())
    value = machine.run()
    locate = _ZipStorages(reader, archive, top)
    return Pickled("torch zip", value, locate, tuple(machine.opaque))


def unpickle_stream(reader: Reader) -> Pickled:
    """One stream: magic, protocol, system, the object, its storages' keys, the storages."""
    label = reader.source.label
    cursor = file_cursor(reader)
    if Machine(cursor).run() != MAGIC:
        raise CheckpointError(f"{label}: a plain pickle, not written by torch.save")
    protocol = Machine(cursor).run()
    if protocol != _PROTOCOL:
        raise cursor.damaged(cursor.position, f"expected stream protocol {_PROTOCOL}")
    Machine(cursor).run()  # byte order and C type sizes: storages are little-endian regardless
    ids = _StreamIds()
    machine = Machine(cursor, ids)
    value = machine.run()
    keys = Machine(cursor).run()
    locate = _StreamStorages(reader, cursor, ids.storages, keys)
    return Pickled("torch stream", value, locate, tuple(machine.opaque))


def file_cursor(reader: Reader) -> Cursor:
    """A cursor over the whole file."""
    size = reader.source.size
    return Cursor(lambda *span: bytes(reader.read(*span)), 0, size, reader.source.label)


def _holding(pickled: Pickled, reader: Reader, key: str | None) -> Holding:
    label = reader.source.label
    try:
        found = find_state_dicts(pickled.value, key)
    except Malformed as error:
        raise CheckpointError(f"{label}: {error}") from error
    return Holding(
        pickled.format,
        tuple(settle(candidate, pickled.locate, label) for candidate in found),
        others(pickled.value, found),
        pickled.opaque,
    )


def _top_folder(reader: Reader, members: Mapping[str, Member]) -> str:
    tops = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    tops = [top for top in tops if "/" not in top]
    label = reader.source.label
    if len(tops) == 1 and f"{tops[0]}/constants.pkl" in members:
        raise CheckpointError(
            f"{label}: a TorchScript archive (torch.jit.save), which holds code",
            ("load it with torch.jit.load and save its state_dict()",),
        )
    if len(tops) != 1:
        raise CheckpointError(f"{label}: {_other_zip(members)}, not written by torch.save")
    return tops[0]


def _other_zip(members: Mapping[str, Member]) -> str:
    if any(name.endswith(".npy") for name in members):
        return "a numpy archive (.npz)"
    if "model.weights.h5" in members:
        return "a Keras model"
    return f"a zip archive of {listed(members, 4) or 'nothing'}"


def _pickle_cursor(reader: Reader, region: Region, label: str) -> Cursor:
    if not region.deflated:
        return Cursor(
            lambda start, count: bytes(reader.read(region.start + start, count)),
            0,
            region.nbytes,
            label,
        )
    if region.nbytes > _FREE_DEFLATED_PICKLE + _MOST_DEFLATED * region.stored:
        raise CheckpointError(f"{label}: a compressed pickle of {region.nbytes:,} bytes")
    return Cursor.over(b"".join(pieces(region, reader)), label)


class _ZipIds:
    """Persistent ids of a zip archive: ``("storage", type, key, location, elements)``."""

    def __call__(self, identity: Any) -> StorageRef:
        # Class patterns would cost more than all the rest, once for every tensor.
        match identity:
            case ("storage", kind, key, location, count) if (
                isinstance(key, str) and isinstance(location, str) and isinstance(count, int)
            ):
                return _storage(kind, key, location, count)
            case _:
                raise Malformed("a persistent id that names no storage")


class _StreamIds:
    """Persistent ids of a stream; ``storages`` are those met, each under its first dtype.

    ``("storage", type, key, location, elements, view)``, where the last is None or
    ``(key, offset, elements)``; and ``("module", class, file, source)`` for a pickled module.
    """

    def __init__(self) -> None:
        self.storages: dict[str, StorageRef] = {}

    def __call__(self, identity: Any) -> StorageRef | Global:
        match identity:
            case ("storage", kind, str() | int() as key, str(location), int(count), *view):
                ref = _storage(kind, str(key), location, count, _view(view))
                self.storages.setdefault(ref.key, ref)
                return ref
            case ("module", Global() as module, *_):
                return module
            case _:
                raise Malformed("a persistent id that names no storage")


def _storage(
    kind: Any, key: str, location: str, count: int, view: tuple[str, int, int] | None = None
) -> StorageRef:
    dtype = storage_dtype(kind)
    if dtype is None:
        # Only names are printed: other values may be nested or numbers of any length.
        name = kind.name if isinstance(kind, Global | Opaque) else type(kind).__name__
        raise Malformed(f"a storage of unknown type {shown(name)}")
    if not 0 <= count < _MOST_ELEMENTS:
        raise Malformed("a storage whose number of elements no memory could hold")
    return StorageRef(key, dtype, count, location, view)


def _view(fields: list[Any]) -> tuple[str, int, int] | None:
    match fields:
        case [] | [None]:
            return None
        case [(str() | int() as key, int(offset), int(count))] if offset >= 0 and count >= 0:
            return str(key), offset, count
        case _:
            raise Malformed("a storage view that is not (key, offset, elements)")


class _ZipStorages:
    """Where the storages of a zip archive lie."""

    def __init__(self, reader: Reader, archive: Archive, top: str) -> None:
        self._label = reader.source.label
        self._archive = archive
        self._top = top
        order = archive.members.get(f"{top}/byteorder")
        self._swapped = order is not None and _is_big_endian(reader, archive.region(order))
        self._regions: dict[str, Region] = {}

    def __call__(self, ref: StorageRef) -> Region:
        region = self._regions.get(ref.key)
        if region is None:
            region = self._regions[ref.key] = self._locate(ref)
        expected = ref.count * ref.itemsize
        if region.nbytes < expected:
            raise CheckpointError(
                f"{self._label}: storage {shown(ref.key)} is too short: "
                f"expected {expected:,} bytes, have {region.nbytes:,}"
            )
        return region

    def _locate(self, ref: StorageRef) -> Region:
        member = self._archive.members.get(f"{self._top}/data/{ref.key}")
        if member is None:
            raise CheckpointError(
                f"{self._label}: the member of storage {shown(ref.key)} is missing"
            )
        return self._archive.region(member, swapped=self._swapped)


def _is_big_endian(reader: Reader, region: Region) -> bool:
    """What the member ``byteorder`` says. Files before torch 2.1 have none; torch reads them as
    little-endian.
    """
    if region.nbytes <= len("little"):
        order = bytes(read_region(region, reader, 0, region.nbytes))
        if order in (b"little", b"big"):
            return order == b"big"
    raise CheckpointError(f"{reader.source.label}: a byte order that is neither little nor big")


class _StreamStorages:
    """Where the storages of a stream lie: after the keys, each behind its length in elements."""

    def __init__(
        self, reader: Reader, cursor: Cursor, refs: Mapping[str, StorageRef], keys: Any
    ) -> None:
        self._label = reader.source.label
        self._regions: dict[str, Region] = {}
        if not isinstance(keys, list) or not all(map(_is_key, keys)):
            raise cursor.damaged(cursor.position, "expected the list of storage keys")
        at = cursor.position
        for key in map(str, keys):
            if key not in refs:
                raise cursor.damaged(at, f"storage {shown(key)} belongs to no tensor")
            self._regions[key] = _stream_region(reader, at, refs[key])
            at = self._regions[key].start + self._regions[key].nbytes

    def __call__(self, ref: StorageRef) -> Region:
        region = self._regions.get(ref.key)
        if region is None:
            raise CheckpointError(f"{self._label}: storage {shown(ref.key)} is missing")
        if region.nbytes < ref.count * ref.itemsize:
            raise CheckpointError(
                f"{self._label}: storage {shown(ref.key)} is too short: "
                f"expected {ref.count * ref.itemsize:,} bytes, have {region.nbytes:,}"
            )
        return region if ref.view is None else self._part(ref, region)

    def _part(self, ref: StorageRef, whole: Region) -> Region:
        assert ref.view is not None
        _, offset, count = ref.view
        start, nbytes = offset * ref.itemsize, count * ref.itemsize
        if start + nbytes > whole.nbytes:
            raise CheckpointError(f"{self._label}: a view leaves storage {shown(ref.key)}")
        return Region(whole.source, whole.start + start, nbytes, nbytes)


def _is_key(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and 0 <= key < _MOST_ELEMENTS)


def _stream_region(reader: Reader, at: int, ref: StorageRef) -> Region:
    count = int.from_bytes(reader.read(at, 8), "little", signed=True)
    start, nbytes = at + 8, count * ref.itemsize
    if count != ref.count:
        raise CheckpointError(
            f"{reader.source.label}: damaged at byte {at:,}: expected a storage of "
            f"{ref.count:,} elements, found {count:,}"
        )
    if start + nbytes > reader.source.size:
        raise CheckpointError(
            f"{reader.source.label}: cut short: expected {start + nbytes:,} bytes, "
            f"have {reader.source.size:,}; copy or download it again"
        )
    return Region(reader.source, start, nbytes, nbytes)
