"""Places in files and tensors in memory, brought together.

Bytes are moved as integers of the same width: a copy as floats may quieten a NaN, and a copy as
booleans makes 1 of every other byte.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import torch

from surgery.checkpoint.pieces import pieces, read_region
from surgery.checkpoint.places import Place
from surgery.checkpoint.source import Reader
from surgery.checkpoint.writing.values import Computed, Values

#: Elements up to which torch computes in the calling thread (``at::internal::GRAIN_SIZE``). Beyond
#: it threads meet at the end of every operation, and where another process has a core, each of
#: these meetings takes longer than the work.
_SERIAL = 1 << 15
#: Bytes that come from another device at a time.
_CARRIED = 1 << 24
#: Bytes below which a tensor is not worth a mapping; a process may have 65,530 of those on Linux.
_WORTH_MAPPING = 1 << 16

#: Dtypes that elements of so many bytes are moved as.
_CARRIERS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
    16: torch.complex128,
}


def read_tensor(place: Place, reader: Reader) -> torch.Tensor:
    """The values at ``place``, bit for bit, in memory of their own; strides may be the file's."""
    if not place.numel:
        return torch.empty(place.shape, dtype=getattr(torch, place.dtype))
    count = place.extent * place.itemsize
    return _as_placed(read_region(place.region, reader, place.start, count), place)


def map_tensor(place: Place, reader: Reader) -> torch.Tensor:
    """The values at ``place``, read from the file when they are first looked at.

    What is written to the tensor stays in memory and never reaches the file. Values that are few,
    or do not lie in the file as memory has them, are read at once, as :func:`read_tensor` does.
    """
    start = place.region.start + place.start
    nbytes = place.extent * place.itemsize
    if nbytes < _WORTH_MAPPING or not place.is_plain or start % place.itemsize:
        return read_tensor(place, reader)
    reader.check_range(start, nbytes)
    page = start - start % mmap.ALLOCATIONGRANULARITY
    length = start - page + nbytes
    try:
        mapped = mmap.mmap(reader.fileno(), length, access=mmap.ACCESS_COPY, offset=page)
    except OSError:  # a file system without mappings, or too many of them
        return read_tensor(place, reader)
    return _as_placed(memoryview(mapped)[start - page :], place)


def flat_pieces(values: Values) -> Iterator[torch.Tensor]:
    """All values in row-major order, as flat contiguous tensors on the CPU, piece by piece."""
    if isinstance(values, Computed):
        yield from values.pieces()
    elif isinstance(values, Place):
        with values.region.source.opened() as reader:
            if values.in_order:
                yield from dense_pieces(values, reader)
            else:
                yield read_tensor(values, reader).contiguous().reshape(-1)
    else:
        yield from _pieces_of_tensor(values)


def dense_pieces(place: Place, reader: Reader) -> Iterator[torch.Tensor]:
    """The values of a dense view as flat tensors, in the order in which the file has them, and
    neither conjugated nor negated.
    """
    for data in pieces(place.region, reader, place.start, place.nbytes):
        flat = as_numbers(data, place.dtype, swapped=place.region.swapped)
        for done in range(0, len(flat), _SERIAL):
            yield flat[done : done + _SERIAL]


def as_numbers(data: bytearray | memoryview, dtype: str, *, swapped: bool = False) -> torch.Tensor:
    """The bytes as a row of numbers, bit for bit; ``swapped`` ones are big-endian."""
    kind: torch.dtype = getattr(torch, dtype)
    if not len(data):
        return torch.empty(0, dtype=kind)
    raw = torch.frombuffer(data, dtype=torch.uint8)
    if swapped:  # a complex number is two numbers
        width = kind.itemsize // 2 if kind.is_complex else kind.itemsize
        raw = raw.view(-1, width).flip(1).reshape(-1)
    return raw.view(kind)


def memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU: its own memory, which is kept alive."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _pieces_of_tensor(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor that is not contiguous is copied whole, others piece by piece from their device."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    per_piece = _SERIAL if flat.device.type == "cpu" else max(1, _CARRIED // flat.element_size())
    for done in range(0, flat.numel(), per_piece):
        yield flat[done : done + per_piece].cpu()


def _as_placed(data: bytearray | memoryview, place: Place) -> torch.Tensor:
    """The bytes from the first element of the view to its last, as the tensor they are."""
    flat = as_numbers(data, place.dtype, swapped=place.region.swapped)
    elements = flat.view(_CARRIERS[place.itemsize]).as_strided(place.shape, place.strides)
    if not place.is_dense:
        elements = elements.clone(memory_format=torch.contiguous_format)
    tensor = elements.view(flat.dtype)
    if place.conjugate:
        tensor = tensor.conj().resolve_conj()
    return tensor.neg() if place.negative else tensor
