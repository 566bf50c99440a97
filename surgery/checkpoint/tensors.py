"""A place in a file to a tensor in memory. The only file here that makes tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.checkpoint.places import Place, contiguous_strides
from surgery.checkpoint.regions import read_region

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.source import Reader


def read_tensor(place: Place, reader: Reader) -> torch.Tensor:
    """The values at ``place``, bit for bit, in memory of their own; strides may be the file's.

    Bytes are moved as integers of the same width: a copy as floats may quieten a NaN, and a
    copy as booleans makes 1 of every other byte.
    """
    import torch

    dtype = getattr(torch, place.dtype)
    if not place.numel:
        return torch.empty(place.shape, dtype=dtype)
    start, count = place.offset * place.itemsize, place.extent * place.itemsize
    data = torch.frombuffer(read_region(place.region, reader, start, count), dtype=torch.uint8)
    if place.region.swapped:
        data = _byteswapped(data, dtype)
    elements = data.view(_carrier(place.itemsize)).as_strided(place.shape, place.strides)
    if not _is_dense(place):
        elements = elements.clone(memory_format=torch.contiguous_format)
    return _resolved(elements.view(dtype), place)


def _carrier(itemsize: int) -> torch.dtype:
    import torch

    return {
        1: torch.uint8,
        2: torch.int16,
        4: torch.int32,
        8: torch.int64,
        16: torch.complex128,
    }[itemsize]


def _byteswapped(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each number's bytes in reverse; a complex number is two numbers."""
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return data.view(-1, width).flip(1).reshape(-1)


def _is_dense(place: Place) -> bool:
    """Whether the view touches every element from its first to its last exactly once."""
    axes = sorted(
        (stride, size) for stride, size in zip(place.strides, place.shape, strict=True) if size > 1
    )
    sizes = tuple(size for _, size in reversed(axes))
    return tuple(stride for stride, _ in reversed(axes)) == contiguous_strides(sizes)


def _resolved(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    if place.conjugate:
        tensor = tensor.conj().resolve_conj()
    return tensor.neg() if place.negative else tensor
