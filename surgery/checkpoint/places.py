"""Where a tensor's values lie: a strided view of one storage, and what makes one impossible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from surgery.checkpoint.source import Source
from surgery.specs import DTYPE_BITS

#: A view that repeats its values (stride 0) is read as long as the result stays below this.
#: The file pays nothing for the repetition, so the file's size is no bound.
EXPANSION_LIMIT = 1 << 28

_LARGEST = 1 << 63
#: Axes of a tensor; more than any network has.
MOST_DIMENSIONS = 64


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


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor as a view of a region. ``strides`` and ``offset`` are in elements.

    Two names with equal places are one tensor.
    """

    region: Region
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    conjugate: bool = False
    negative: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPE_BITS[self.dtype] // 8

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, one behind the other."""
        return self.numel * self.itemsize

    @property
    def start(self) -> int:
        """The first byte in the storage."""
        return self.offset * self.itemsize

    @property
    def extent(self) -> int:
        """Elements from the first one that the view touches to the last one."""
        if 0 in self.shape:
            return 0
        beyond: int = sum(map(mul, self.shape, self.strides))
        return 1 + beyond - sum(self.strides)

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """(stride, size) of the axes that move; one of a single element never does."""
        pairs = zip(self.strides, self.shape, strict=True)
        return tuple((stride, size) for stride, size in pairs if size > 1)

    @property
    def is_dense(self) -> bool:
        """Whether the view shows every element from its first to its last exactly once."""
        return _follow(sorted(self.steps, reverse=True))

    @property
    def in_order(self) -> bool:
        """Whether the values lie one behind the other, though perhaps compressed or big-endian."""
        return not (self.conjugate or self.negative) and (not self.numel or _follow(self.steps))

    @property
    def is_plain(self) -> bool:
        """Whether the file has the values as memory would, byte for byte."""
        return self.in_order and not (self.region.deflated or self.region.swapped)

    def fault(self) -> str | None:
        """What makes the view impossible, in words; None for a sound one."""
        if len(self.shape) != len(self.strides):
            return f"has {len(self.shape)} sizes and {len(self.strides)} strides"
        if len(self.shape) > MOST_DIMENSIONS:
            return f"has {len(self.shape):,} dimensions"
        numbers = (*self.shape, *self.strides, self.offset)
        if min(numbers) < 0:
            return "has a negative size, stride or offset"
        if max(numbers) >= _LARGEST or math.prod(filter(None, self.shape)) >= _LARGEST:
            return "is larger than any memory"
        extent = self.extent
        reach = self.offset + extent
        holds = self.region.nbytes // self.itemsize
        if extent and reach > holds:
            return f"reaches element {reach:,} of a storage of {holds:,}"
        return None

    @property
    def is_absurd(self) -> bool:
        """Whether a few stored values are repeated into more than :data:`EXPANSION_LIMIT`."""
        return self.nbytes > EXPANSION_LIMIT and self.numel > self.extent


def _follow(steps: Sequence[tuple[int, int]]) -> bool:
    """Whether each axis, the widest first, steps over exactly what the ones behind it fill."""
    dense = contiguous_strides(tuple(size for _, size in steps))
    return all(stride == step for (stride, _), step in zip(steps, dense, strict=True))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose values lie in row-major order."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
