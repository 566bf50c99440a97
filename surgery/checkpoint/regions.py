"""The bytes of one storage: a piece of a file, perhaps compressed."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.checkpoint.source import Source


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
