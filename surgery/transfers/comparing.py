"""Whether two tensors hold the same values, read a piece at a time."""

from __future__ import annotations

import torch

from surgery.checkpoint.tensors.casting import cast, widened
from surgery.checkpoint.tensors.reading import flat_pieces
from surgery.checkpoint.writing.values import Values


def equal_in(one: Values, other: Values, dtype: str) -> bool:
    """Whether they are equal in ``dtype``; NaN equals NaN."""
    ours, theirs = _whole(one, dtype), _whole(other, dtype)
    return bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())


def _whole(values: Values, dtype: str) -> torch.Tensor:
    flat = torch.cat([cast(piece, dtype)[0] for piece in flat_pieces(values)])
    return widened(flat) if flat.is_floating_point() or flat.is_complex() else flat
