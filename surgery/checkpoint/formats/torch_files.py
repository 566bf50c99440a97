"""Files that torch.save wrote: a zip archive since torch 1.6, one stream of pickles before.

The facts are from ``torch/serialization.py``: ``_save``, ``_legacy_save``, ``_legacy_load``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from surgery.checkpoint.contents.finding import find_state_dicts, others, place_all
from surgery.checkpoint.formats.zipped import Archive, Member
from surgery.checkpoint.holding import Contents
from surgery.checkpoint.pickles.constructors import storage_dtype
from surgery.checkpoint.pickles.inert import Global, Malformed, Opaque, StorageRef, TensorRef
from surgery.checkpoint.pickles.reading import CutShort, unpickle
from surgery.checkpoint.pieces import read_region
from surgery.checkpoint.places import Place, Region
from surgery.checkpoint.source import Reader
from surgery.collecting import collector_paused
from surgery.errors import CheckpointError
from surgery.wording import listed, printable

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_MOST_ELEMENTS = 1 << 63

#: Bytes that are first read of a pickle in a stream.
_FIRST_READ = 1 << 20

# torch.save never compresses. A pickle that someone's archiver did is a fifth of its size (real
# models and 20,000 equal tensors alike); one that shrinks far more is a bomb, as each of its
# bytes can make an object.
_FREE_DEFLATED_PICKLE = 1 << 20
_MOST_DEFLATED = 32


@dataclass(frozen=True, slots=True)
class Pickled:
    """What the pickle of the file ``label`` says, inert; ``opaque`` are the globals without a
    meaning here. ``find`` gives the storage of a key, None where there is none.
    """

    label: str
    value: Any
    opaque: tuple[str, ...]
    find: Callable[[str], Region | None]

    def place(self, name: str, ref: TensorRef) -> Place:
        """Where a tensor's values lie. Raises CheckpointError where its storage is missing or
        short, or where its view leaves it: such a file is damaged.
        """
        key, expected = printable(ref.storage.key), ref.storage.count * ref.storage.itemsize
        region = self.find(ref.storage.key)
        if region is None:
            raise CheckpointError(f"{self.label}: storage {key} is missing")
        if region.nbytes < expected:
            raise CheckpointError(
                f"{self.label}: storage {key} is too short: "
                f"expected {expected:,} bytes, have {region.nbytes:,}"
            )
        place = Place(
            region, ref.dtype, ref.shape, ref.strides, ref.offset, ref.conjugate, ref.negative
        )
        if fault := place.fault():
            raise CheckpointError(
                f"{self.label}: tensor {printable(name)} {fault}: the file is damaged"
            )
        return place


@collector_paused()
def read_pickled(kind: str, reader: Reader, key: str | None = None) -> Contents:
    """The state dicts of a zip archive (``kind`` is ``"zip"``) or of a ``"stream"``."""
    pickled = unpickle_file(kind, reader)
    try:
        found = find_state_dicts(pickled.value, key)
    except Malformed as error:
        raise CheckpointError(f"{pickled.label}: {error}") from error
    states = tuple(place_all(each, pickled.place) for each in found)
    beside = others(pickled.value, found)
    return Contents(reader.source, f"torch {kind}", states, beside, pickled.opaque)


def unpickle_file(kind: str, reader: Reader) -> Pickled:
    """All of the file's pickle, inert. Raises CheckpointError."""
    return _unpickle_zip(reader) if kind == "zip" else _unpickle_stream(reader)


def _unpickle_zip(reader: Reader) -> Pickled:
    """A zip archive: ``<top>/data.pkl``, and a member ``<top>/data/<key>`` for each storage."""
    archive = Archive(reader)
    top = _top_folder(reader, archive.members)
    label = f"{reader.source.label} ({printable(top)}/data.pkl)"
    region = archive.region(archive.members[f"{top}/data.pkl"])
    if region.nbytes > _FREE_DEFLATED_PICKLE + _MOST_DEFLATED * region.stored:
        raise CheckpointError(f"{label}: a compressed pickle of {region.nbytes:,} bytes")
    data = bytes(read_region(region, reader, 0, region.nbytes))
    value, opaque, _ = unpickle(data, label, _stored)
    order = archive.members.get(f"{top}/byteorder")
    swapped = order is not None and _is_big_endian(reader, archive.region(order))

    @cache
    def find(key: str) -> Region | None:
        member = archive.members.get(f"{top}/data/{key}")
        return None if member is None else archive.region(member, swapped=swapped)

    return Pickled(reader.source.label, value, opaque, find)


def _unpickle_stream(reader: Reader) -> Pickled:
    """One stream: magic, protocol, system, the object, its storages' keys, the storages."""
    _, _, at = read_pickle(reader, 0)
    protocol, _, at = read_pickle(reader, at)
    if protocol != _PROTOCOL:
        raise _damaged(reader, at, f"expected stream protocol {_PROTOCOL}")
    _, _, at = read_pickle(reader, at)  # byte order, C types: storages are little-endian regardless
    storages: dict[str, StorageRef] = {}  # each under its first dtype

    def stored(identity: Any) -> StorageRef | Global:
        found = _stored(identity)
        if isinstance(found, StorageRef):
            storages.setdefault(found.key, found)
        return found

    value, opaque, at = read_pickle(reader, at, stored)
    keys, _, at = read_pickle(reader, at)
    regions = _stream_regions(reader, at, storages, keys)
    return Pickled(reader.source.label, value, opaque, regions.get)


def _damaged(reader: Reader, at: int, problem: str) -> CheckpointError:
    return CheckpointError(f"{reader.source.label}: damaged at byte {at:,}: {problem}")


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
        held = listed([*members], 4) or "nothing"
        raise CheckpointError(f"{label}: a zip archive of {held}, not written by torch.save")
    return tops[0]


def _stored(identity: Any) -> StorageRef | Global:
    """What a persistent id stands for: ``("storage", type, key, location, elements)``, in a stream
    with a last field, which is None or a view: ``(key, offset, elements)``, as files before torch
    0.4 have it; or ``("module", class, file, source)`` for the class of a pickled module.
    """
    # Class patterns would cost more than all the rest, once for every tensor.
    match identity:
        case ("storage", kind, key, location, count, *view) if (
            type(key) in (str, int) and type(location) is str and type(count) is int
        ):
            return _storage(kind, str(key), location, count, view)
        case ("module", Global() as module, *_):
            return module
        case _:
            raise Malformed("a persistent id that names no storage")


def _storage(kind: Any, key: str, location: str, count: int, view: list[Any]) -> StorageRef:
    dtype = storage_dtype(kind)
    if dtype is None:
        # Only names are printed: other values may be nested or numbers of any length.
        name = kind.name if isinstance(kind, Global | Opaque) else type(kind).__name__
        raise Malformed(f"a storage of unknown type {printable(name)}")
    if not 0 <= count < _MOST_ELEMENTS:
        raise Malformed("a storage whose number of elements no memory could hold")
    match view:
        case [] | [None]:
            return StorageRef(key, dtype, count, location)
        case [(_, int(offset), int(length))] if 0 <= offset <= offset + length <= count:
            return StorageRef(key, dtype, count, location, offset)
        case _:
            raise Malformed("a storage view that is no part of its storage")


def read_pickle(
    reader: Reader, at: int, persistent: Callable[[Any], Any] = _stored
) -> tuple[Any, tuple[str, ...], int]:
    """The pickle that begins at byte ``at`` of the file, its globals without a meaning here, and
    where it ends. Gigabytes of weights may follow it: no more is read than it seems to take.
    """
    left = reader.source.size - at
    count = min(_FIRST_READ, left)
    while True:
        data = bytes(reader.read(at, count))
        try:
            value, opaque, length = unpickle(data, reader.source.label, persistent, at)
        except CutShort:
            if count == left:
                raise
            count = min(8 * count, left)
        else:
            return value, opaque, at + length


def _is_big_endian(reader: Reader, region: Region) -> bool:
    """What the member ``byteorder`` says. Files before torch 2.1 have none; torch reads them as
    little-endian.
    """
    if region.nbytes <= len("little"):
        order = bytes(read_region(region, reader, 0, region.nbytes))
        if order in (b"little", b"big"):
            return order == b"big"
    raise CheckpointError(f"{reader.source.label}: a byte order that is neither little nor big")


def _stream_regions(
    reader: Reader, at: int, refs: Mapping[str, StorageRef], keys: Any
) -> dict[str, Region]:
    """The storages of a stream: after the keys, each behind its length in elements."""
    regions: dict[str, Region] = {}
    for key in keys if isinstance(keys, list) else [None]:
        if not isinstance(key, str) and not (type(key) is int and 0 <= key < _MOST_ELEMENTS):
            raise _damaged(reader, at, "expected the list of storage keys")
        if (ref := refs.get(str(key))) is None:
            raise _damaged(reader, at, f"storage {printable(key)} belongs to no tensor")
        count = int.from_bytes(reader.read(at, 8), "little", signed=True)
        if count != ref.count:
            problem = f"expected a storage of {ref.count:,} elements, found {count:,}"
            raise _damaged(reader, at, problem)
        nbytes = count * ref.itemsize
        reader.check_range(at + 8, nbytes)
        regions[ref.key] = Region(reader.source, at + 8, nbytes, nbytes)
        at += 8 + nbytes
    return regions
