"""A resized step and its source's values -> the target's values, once they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from surgery.checkpoint.tensors.casting import cast
from surgery.checkpoint.tensors.reading import flat_pieces
from surgery.checkpoint.writing.values import Computed, Values
from surgery.specs import TensorSpec
from surgery.transfers.resize import resizer_called
from surgery.transfers.resize.precision import TimmFunctions
from surgery.transfers.step import Method, Step
from surgery.wording import shape_text


def resized(step: Step, method: Method, source: Values, initial: Values | None = None) -> Values:
    """The values of ``step.target``: in float64 where the source or the target is, else float32.

    ``initial`` are the target's own values, needed where the method keeps some of them. Raises
    :class:`~surgery.errors.SurgeryError` for a method that there is not.
    """
    compute, shape = resizer_called(method.name).compute, step.target.shape
    if compute is None:
        return source
    wide = "float64" in {step.target.dtype, TensorSpec.of("", source).dtype}
    dtype = "float64" if wide else "float32"

    def pieces() -> Iterator[torch.Tensor]:
        values = _whole(source, dtype)
        own = values.new_empty(shape) if initial is None else _whole(initial, dtype)
        with torch.no_grad(), TimmFunctions(wide=wide):
            result = compute(values, own, dict(method.settings))
        assert tuple(result.shape) == shape, (
            f"{method.name} made {tuple(result.shape)}, expected {shape_text(shape)}"
        )
        yield result.contiguous().reshape(-1)

    return Computed(shape, dtype, pieces)


def _whole(values: Values, dtype: str) -> torch.Tensor:
    """All values in one new tensor."""
    flat = torch.cat([cast(piece, dtype)[0] for piece in flat_pieces(values)])
    return flat.reshape(TensorSpec.of("", values).shape)
