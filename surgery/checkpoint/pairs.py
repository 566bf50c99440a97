"""Two tensors in two files, piece by piece: equal by their bytes, or as numbers side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from surgery.checkpoint.numbers import as_numbers
from surgery.checkpoint.pieces import Piece, pieces
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress
from surgery.checkpoint.source import Reader
from surgery.checkpoint.views import is_dense

if TYPE_CHECKING:
    import torch

#: The file of the one and that of the other, which may be the same.
Readers = tuple[Reader, Reader]


def run_alike(one: Place, other: Place) -> bool:
    """Whether both have the same elements in the same order, without gaps, so that the n-th
    number of one belongs to the n-th of the other.
    """
    return (one.dtype, one.shape, one.conjugate, one.negative, _strides(one)) == (
        other.dtype,
        other.shape,
        other.conjugate,
        other.negative,
        _strides(other),
    ) and is_dense(one)


def _strides(place: Place) -> tuple[int, ...]:
    """The strides of the axes that move, in the axes' own order."""
    pairs = zip(place.strides, place.shape, strict=True)
    return tuple(stride for stride, size in pairs if size > 1)


def bytes_that_agree(one: Place, other: Place, readers: Readers, progress: Progress) -> int:
    """Bytes from the start that are the same in both: of whole pieces, up to the first one that
    differs. All of them where the tensors are equal bit for bit. The places run alike.
    """
    if one == other:
        progress(_nbytes(one))
        return _nbytes(one)
    agreed = 0
    if one.region.swapped != other.region.swapped:
        return agreed
    for mine, theirs in _both(one, other, readers):
        if mine != theirs:
            break
        agreed += len(mine)
        progress(len(mine))
    return agreed


def numbers_side_by_side(
    one: Place, other: Place, readers: Readers
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The numbers of both, a piece at a time and in the file's order. The places run alike."""
    for mine, theirs in _both(one, other, readers):
        yield (
            as_numbers(mine, one.dtype, swapped=one.region.swapped),
            as_numbers(theirs, other.dtype, swapped=other.region.swapped),
        )


def _both(one: Place, other: Place, readers: Readers) -> Iterator[tuple[Piece, Piece]]:
    return zip(*map(_pieces, (one, other), readers), strict=True)


def _pieces(place: Place, reader: Reader) -> Iterator[Piece]:
    return pieces(place.region, reader, place.offset * place.itemsize, _nbytes(place))


def _nbytes(place: Place) -> int:
    return place.numel * place.itemsize
