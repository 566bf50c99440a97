"""What a new file is made of: ranges of other files' bytes, and bytes that are made.

A layout puts segments at offsets. Nothing here reads or writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from surgery.checkpoint.places import Place, Region
from surgery.checkpoint.writing.values import Values
from surgery.specs import TensorSpec

Bytes: TypeAlias = bytes | bytearray | memoryview

#: File systems share blocks of this many bytes between files where both offsets agree in them.
BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """``nbytes`` bytes that are made when their turn comes: the buffers that ``pieces`` gives."""

    nbytes: int
    pieces: Callable[[], Iterable[Bytes]]


#: A range of a file whose bytes are copied as they are, or bytes that are made.
Segment: TypeAlias = Region | Made


@dataclass(frozen=True, slots=True)
class Placed:
    """A segment and where in the new file it begins."""

    offset: int
    segment: Segment

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.segment.nbytes


def literal(data: Bytes) -> Made:
    """Bytes that are at hand."""
    return Made(len(data), lambda: (data,))


def segment_of(values: Values) -> Segment:
    """Row-major little-endian bytes: a range of a file where they lie there as they are."""
    if isinstance(values, Place) and values.is_plain:
        region, nbytes = values.region, values.nbytes
        whole = (values.start, nbytes) == (0, region.nbytes)
        # Torch may be told to save without checksums (set_crc32_options); it then writes 0.
        crc = (region.crc or None) if whole else None
        return Region(region.source, region.start + values.start, nbytes, nbytes, crc=crc)

    def bytes_of_pieces() -> Iterator[memoryview]:
        from surgery.checkpoint.tensors.reading import flat_pieces, memory

        return map(memory, flat_pieces(values))

    return Made(TensorSpec.of("", values).nbytes, bytes_of_pieces)


def merged(placed: Iterable[Placed]) -> Iterator[Placed]:
    """Neighbours that are neighbours in their source too become one; ``placed`` is in order."""
    waiting: Placed | None = None
    for part in placed:
        if not part.segment.nbytes:
            continue
        joined = waiting and _joined(waiting, part)
        if waiting and not joined:
            yield waiting
        waiting = joined or part
    if waiting:
        yield waiting


def _joined(one: Placed, other: Placed) -> Placed | None:
    first, second = one.segment, other.segment
    if (
        isinstance(first, Region)
        and isinstance(second, Region)
        and one.end == other.offset
        and first.start + first.nbytes == second.start
        and first.source == second.source
    ):
        nbytes = first.nbytes + second.nbytes
        return replace(one, segment=Region(first.source, first.start, nbytes, nbytes))
    return None


def shared_residue(placed: Iterable[Placed], step: int) -> int:
    """The shift, below BLOCK and a multiple of ``step``, after which the most bytes lie at the
    same place within a block as in their source.

    There a copy on a file system that shares blocks (XFS, Btrfs) costs nothing, and anywhere
    else whole pages are copied.
    """
    votes: Counter[int] = Counter()
    for part in placed:
        if isinstance(part.segment, Region):
            shift = (part.segment.start - part.offset) % BLOCK
            if shift % step == 0:
                votes[shift] += part.segment.nbytes
    return max(votes, key=lambda shift: (votes[shift], -shift), default=0)
