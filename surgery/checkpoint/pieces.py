"""The bytes of a storage a piece at a time, so that no tensor has to be in memory whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

from surgery.checkpoint.places import Place, Region
from surgery.checkpoint.source import Reader
from surgery.errors import CheckpointError

#: Bytes of a piece: whole elements of every dtype, and no more than the allocator keeps at hand.
#: Larger ones are given back and faulted in anew each time, which takes as long again as reading.
PIECE = 1 << 17


class Garbled(CheckpointError):
    """A compressed member that does not give the bytes that it declares."""


def pieces(
    region: Region, reader: Reader, start: int = 0, count: int | None = None
) -> Iterator[bytearray]:
    """``count`` bytes from ``start`` of the storage (all of it by default), in their order.

    The caller has checked that it has them. All pieces but the last have :data:`PIECE` bytes.
    Raises Garbled, and CheckpointError where the file ends before them.
    """
    count = region.nbytes - start if count is None else count
    if region.deflated:
        yield from _regular(_inflated(region, reader), start, count)
        return
    first = region.start + start
    for at in range(0, count, PIECE):
        yield reader.read(first + at, min(PIECE, count - at))


def read_region(region: Region, reader: Reader, start: int, count: int) -> bytearray:
    """``count`` bytes from ``start`` of the storage, at once; raises as :func:`pieces` does.

    The reader keeps the storage that was inflated last: many tensors may be views of it.
    """
    if not region.deflated:
        return reader.read(region.start + start, count)
    if reader.inflated is None or reader.inflated[0] != region.start:
        reader.inflated = region.start, b"".join(pieces(region, reader))
    return bytearray(reader.inflated[1][start : start + count])


def _regular(loose: Iterator[bytes], start: int, count: int) -> Iterator[bytearray]:
    """Pieces of any size -> pieces of the regular one, the first ``start`` bytes left out."""
    kept, skip, left = bytearray(), start, count
    for data in loose:
        kept += data[skip : skip + left]
        skip = max(0, skip - len(data))
        while left and len(kept) >= min(PIECE, left):
            size = min(PIECE, left)
            yield kept[:size]
            del kept[:size]
            left -= size


def _inflated(region: Region, reader: Reader) -> Iterator[bytes]:
    """All of a deflated member, at most a piece at a time. Goes to its end, which is where damage
    often shows, and never further than the bytes that it declares.
    """

    def garbled(found: str) -> Garbled:
        where = f"{reader.source.label}: the compressed member at byte {region.start:,}"
        return Garbled(f"{where} is damaged: found {found}")

    stored = pieces(replace(region, nbytes=region.stored, deflated=False), reader)
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, b""
    while not machine.eof:
        taken = rest or next(stored, b"")
        try:
            data, rest = machine.decompress(taken, PIECE), machine.unconsumed_tail
        except zlib.error as error:
            raise garbled(f"what zlib calls {error}") from error
        if not (taken or data):
            break
        size += len(data)
        if size > region.nbytes:
            raise garbled(f"more than its {region.nbytes:,} bytes")
        yield data
    if size != region.nbytes or not machine.eof:
        raise garbled(f"{size:,} of its {region.nbytes:,} bytes")


def run_alike(one: Place, other: Place) -> bool:
    """Whether both have the same elements in the same order, without gaps, so that the n-th
    number of one belongs to the n-th of the other.
    """
    ours = one.dtype, one.shape, one.conjugate, one.negative, one.steps
    theirs = other.dtype, other.shape, other.conjugate, other.negative, other.steps
    return ours == theirs and one.is_dense


def same_bytes(one: Place, other: Place, readers: tuple[Reader, Reader]) -> bool:
    """Whether two places of the same strides are equal bit for bit; ``readers`` have them open."""
    if one == other or one.region.swapped != other.region.swapped:
        return one == other
    sides = (
        pieces(place.region, reader, place.start, place.nbytes)
        for place, reader in zip((one, other), readers, strict=True)
    )
    return all(mine == theirs for mine, theirs in zip(*sides, strict=True))
