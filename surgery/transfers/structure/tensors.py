"""An operation on real tensors: the one file here that knows torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from surgery.transfers.structure.operations import Operation, Piece

if TYPE_CHECKING:
    import torch


def make_tensor(
    operation: Operation, shape: tuple[int, ...], tensor: Callable[[str], torch.Tensor]
) -> torch.Tensor:
    """The values of a target of ``shape``; ``tensor`` gives a source's values by its name.

    The dtype is the sources'. The result may share memory with a source.
    """
    import torch

    pieces = [_rows(piece, tensor) for piece in operation.pieces if piece.source]
    like = pieces[0]
    made = iter(pieces)
    parts = [
        next(made) if p.source else like.new_zeros(p.rows, *like.shape[1:])
        for p in operation.pieces
    ]
    joined = parts[0] if len(parts) == 1 else torch.cat([p.reshape(len(p), -1) for p in parts])
    if operation.transposed:
        return joined.reshape(tuple(reversed(shape))).T
    return joined.reshape(shape)


def _rows(piece: Piece, tensor: Callable[[str], torch.Tensor]) -> torch.Tensor:
    assert piece.source is not None
    values = tensor(piece.source.name)
    if piece.transposed:
        values = values.T
    return values if piece.whole else values[piece.start : piece.stop]
