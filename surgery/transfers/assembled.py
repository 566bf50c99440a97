"""An operation and its sources' values -> the target's values: as views where views can do it.

On places in a file nothing is read: rows of a matrix, or its transpose, are a place again, and
what is joined is joined when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.checkpoint.places import Place, contiguous_strides
from surgery.checkpoint.writing.values import Computed, Values, in_order, is_tensor
from surgery.matching.operations import Operation, Piece, Shape
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch


def assembled(
    operation: Operation, shape: Shape, values: Mapping[str, Place | torch.Tensor]
) -> Values:
    """The values of a target of ``shape``, in the sources' dtype; ``values`` are by name.

    The result is a view of what it is made of wherever it can be, and is computed otherwise.
    """
    if any(is_tensor(values[source.name]) for source in operation.sources):
        return make_tensor(operation, shape, lambda name: _tensor(values[name]))
    return _view(operation, shape, values) or _in_order(operation, shape, values)


def make_tensor(
    operation: Operation, shape: Shape, tensor: Callable[[str], torch.Tensor]
) -> torch.Tensor:
    """The same on tensors; ``tensor`` gives a source's values by its name.

    The dtype is the sources'. The result may share memory with a source; gradients reach it.
    """
    import torch

    pieces = [_rows_of_tensor(p, tensor(p.source.name)) for p in operation.pieces if p.source]
    like, made = pieces[0], iter(pieces)
    parts = [
        next(made) if p.source else like.new_zeros(p.rows, *like.shape[1:])
        for p in operation.pieces
    ]
    joined = parts[0] if len(parts) == 1 else torch.cat([p.reshape(len(p), -1) for p in parts])
    if operation.transposed:
        return joined.reshape(tuple(reversed(shape))).T
    return joined.reshape(shape)


def _view(
    operation: Operation, shape: Shape, values: Mapping[str, Place | torch.Tensor]
) -> Place | None:
    """One place that shows the target's values; None where there is none."""
    place, *more = (_rows(piece, values) for piece in operation.pieces)
    if more or place is None:
        return None
    if not operation.transposed:
        return _reshaped(place, shape)
    place = _reshaped(place, tuple(reversed(shape)))
    return place and _turned(place)


def _rows_of_tensor(piece: Piece, values: torch.Tensor) -> torch.Tensor:
    if piece.transposed:
        values = values.T
    return values if piece.whole else values[piece.start : piece.stop]


def _rows(piece: Piece, values: Mapping[str, Place | torch.Tensor]) -> Place | None:
    """The rows of a piece as a place; None for zeros."""
    if piece.source is None:
        return None
    place = values[piece.source.name]
    assert isinstance(place, Place)
    if piece.transposed:
        place = _turned(place)
    if piece.whole:
        return place
    step = place.strides[0]
    return replace(
        place, shape=(piece.rows, *place.shape[1:]), offset=place.offset + piece.start * step
    )


def _turned(place: Place) -> Place:
    return replace(
        place, shape=tuple(reversed(place.shape)), strides=tuple(reversed(place.strides))
    )


def _reshaped(place: Place, shape: Shape) -> Place | None:
    """The values in another shape; None where no strides can say it."""
    if place.shape == shape:
        return place
    if in_order(place):
        return replace(place, shape=shape, strides=contiguous_strides(shape))
    if [size for size in place.shape if size != 1] != [size for size in shape if size != 1]:
        return None
    steps = iter(s for s, size in zip(place.strides, place.shape, strict=True) if size != 1)
    return replace(place, shape=shape, strides=tuple(1 if n == 1 else next(steps) for n in shape))


def _in_order(
    operation: Operation, shape: Shape, values: Mapping[str, Place | torch.Tensor]
) -> Computed:
    """What has to be joined, or lies in another order: a piece at a time where it can be."""
    from surgery.checkpoint.tensors import flat_pieces

    dtype = TensorSpec.of("", values[operation.sources[0].name]).dtype

    def joined() -> Iterator[torch.Tensor]:
        for piece, place in zip(operation.pieces, parts, strict=True):
            if place is None:
                yield _zeros(piece.rows, widths, dtype)
            else:
                yield from flat_pieces(place)

    def turned() -> Iterator[torch.Tensor]:
        whole = make_tensor(operation, shape, lambda name: _tensor(values[name]))
        yield whole.contiguous().reshape(-1)

    parts = [_rows(piece, values) for piece in operation.pieces]
    widths = next(part.shape[1:] for part in parts if part is not None)
    return Computed(shape, dtype, turned if operation.transposed else joined)


def _zeros(rows: int, widths: Sequence[int], dtype: str) -> torch.Tensor:
    import torch

    return torch.zeros((rows, *widths), dtype=getattr(torch, dtype)).reshape(-1)


def _tensor(values: Place | torch.Tensor) -> torch.Tensor:
    from surgery.checkpoint.tensors import read_tensor

    if not isinstance(values, Place):
        return values
    with values.region.source.opened() as reader:
        return read_tensor(values, reader)
