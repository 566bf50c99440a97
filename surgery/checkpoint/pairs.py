"""Two tensors in two files, byte by byte."""

from __future__ import annotations

from surgery.checkpoint.pieces import pieces
from surgery.checkpoint.places import Place
from surgery.checkpoint.source import Reader


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
