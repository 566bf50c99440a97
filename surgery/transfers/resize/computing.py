"""A resized step and its source's values -> the target's values, once they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch

from surgery.checkpoint.tensors.casting import cast
from surgery.checkpoint.tensors.reading import flat_pieces
from surgery.checkpoint.writing.values import Computed, Values
from surgery.specs import TensorSpec
from surgery.transfers.resize import RESIZERS
from surgery.transfers.resize.precision import InFloat64
from surgery.transfers.step import Method, Step
from surgery.wording import shape_text


def resized(step: Step, method: Method, source: Values, initial: Values | None = None) -> Computed:
    """The values of ``step.target``: in float64 where the source or the target is, else float32.

    ``initial`` are the target's own values, needed where the method keeps some of them.
    """
    resizer = RESIZERS[method.name]
    wide = "float64" in {step.target.dtype, TensorSpec.of("", source).dtype}
    dtype = "float64" if wide else "float32"

    def pieces() -> Iterator[torch.Tensor]:
        own = None if initial is None else _whole(initial, dtype)
        with torch.no_grad(), InFloat64() if wide else nullcontext():
            result = resizer.compute(
                _whole(source, dtype), step.target.shape, dict(method.settings), own
            )
        assert tuple(result.shape) == step.target.shape, (
            f"{resizer.name} made {tuple(result.shape)}, expected {shape_text(step.target.shape)}"
        )
        yield result.contiguous().reshape(-1)

    return Computed(step.target.shape, dtype, pieces)


def _whole(values: Values, dtype: str) -> torch.Tensor:
    wanted, shape = getattr(torch, dtype), TensorSpec.of("", values).shape
    parts = [cast(piece, dtype)[0] for piece in flat_pieces(values)]
    return torch.cat(parts).reshape(shape) if parts else torch.empty(shape, dtype=wanted)
