"""The bytes of one storage: a piece of a file, perhaps compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from surgery.checkpoint.source import Reader, Source
from surgery.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Region:
    """The bytes of one storage: ``nbytes`` of them, ``stored`` of them in the file.

    The two differ where the member of a zip file is ``deflated``. ``swapped`` says that the
    numbers are big-endian. ``crc`` is the CRC-32 of the bytes where the file records one.
    """

    source: Source
    start: int
    stored: int
    nbytes: int
    deflated: bool = False
    swapped: bool = False
    crc: int | None = None


def read_region(region: Region, reader: Reader, start: int, count: int) -> bytearray:
    """``count`` bytes from ``start`` of the storage; the caller has checked that it has them."""
    if not region.deflated:
        return reader.read(region.start + start, count)
    return bytearray(inflated(region, reader)[start : start + count])


def inflated(region: Region, reader: Reader) -> bytes:
    """All of a deflated region, no more than the size it declares."""
    stored = reader.read(region.start, region.stored)
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = machine.decompress(stored, region.nbytes + 1)
    except zlib.error as error:
        raise CheckpointError(
            f"{reader.source.label}: damaged near byte {region.start:,}: {error}"
        ) from error
    if len(data) != region.nbytes:
        have = "more" if len(data) > region.nbytes else f"{len(data):,}"
        raise CheckpointError(
            f"{reader.source.label}: the member at byte {region.start:,} is damaged: "
            f"expected {region.nbytes:,} bytes, have {have}"
        )
    return data
