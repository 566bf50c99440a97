"""Values from a file or from memory into a live tensor, in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from surgery.checkpoint.places import Place
from surgery.checkpoint.source import OneAtATime
from surgery.checkpoint.tensors.casting import cast
from surgery.checkpoint.tensors.reading import flat_pieces, memory, read_tensor
from surgery.checkpoint.writing.values import Values
from surgery.specs import TensorSpec


def fill(target: torch.Tensor, values: Values, sources: OneAtATime) -> int:
    """Write ``values`` over those of ``target``, which has their shape, in its own dtype.

    Returns how many elements the cast broke (see :func:`surgery.checkpoint.tensors.casting.cast`).
    Beside ``target`` itself, no more is held in memory than a piece at a time, unless one of the
    two is not contiguous.
    """
    if not target.numel():
        return 0
    with torch.no_grad():
        if isinstance(values, Place) and TensorSpec.of("", values) == TensorSpec.of("", target):
            reader = sources.reader(values.region.source)
            if values.is_plain and _is_plain_memory(target):  # no byte is copied twice
                reader.read_into(values.region.start + values.start, memory(target))
                torch.autograd.graph.increment_version(target)  # as by any operation in place
            else:
                target.copy_(read_tensor(values, reader))
            return 0
        if target.is_contiguous():
            return _put_pieces(target.view(-1), flat_pieces(values))
        whole = torch.empty_like(target, memory_format=torch.contiguous_format)
        broken = _put_pieces(whole.view(-1), flat_pieces(values))
        target.copy_(whole)
        return broken


def _put_pieces(flat: torch.Tensor, pieces: Iterable[torch.Tensor]) -> int:
    dtype = str(flat.dtype).removeprefix("torch.")
    at = broken = 0
    for piece in pieces:
        result, lost = cast(piece, dtype)
        flat[at : at + result.numel()].copy_(result)
        at, broken = at + result.numel(), broken + lost
    return broken


def _is_plain_memory(tensor: torch.Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )
