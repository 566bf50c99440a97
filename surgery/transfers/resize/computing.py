"""An adapted step and its sources' values -> the target's values, once they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from surgery.checkpoint.writing.values import Computed, Values
from surgery.errors import SurgeryError, did_you_mean
from surgery.specs import TensorSpec
from surgery.transfers.plan import Adapt, shape_text
from surgery.transfers.resize import ADAPTERS
from surgery.transfers.resize.adapter import Adapter

if TYPE_CHECKING:
    import torch


def computed(step: Adapt, sources: Sequence[Values], initial: Values | None = None) -> Computed:
    """The values of ``step.target``: in float64 where the source or the target is, else float32.

    ``initial`` are the target's own values, needed where the step keeps some of them.
    """
    adapter = _adapter(step)
    wide = "float64" in {step.target.dtype, *(source.dtype for source in step.sources)}
    dtype = "float64" if wide else "float32"

    def pieces() -> Iterator[torch.Tensor]:
        own = None if initial is None else _whole(initial, dtype)
        tensors = [_whole(values, dtype) for values in sources]
        yield _compute(adapter, step, tensors, own, wide=wide)

    return Computed(step.target.shape, dtype, pieces)


def _adapter(step: Adapt) -> Adapter:
    if step.adapter not in ADAPTERS:
        near = did_you_mean(step.adapter, ADAPTERS)
        raise SurgeryError(f"{step.target.name}: there is no adapter {step.adapter!r}{near}")
    return ADAPTERS[step.adapter]


def _compute(
    adapter: Adapter,
    step: Adapt,
    sources: Sequence[torch.Tensor],
    initial: torch.Tensor | None,
    *,
    wide: bool,
) -> torch.Tensor:
    import torch

    from surgery.transfers.resize.precision import InFloat64

    with torch.no_grad(), InFloat64() if wide else nullcontext():
        result = adapter.compute(sources, step.target.shape, dict(step.settings), initial)
    assert tuple(result.shape) == step.target.shape, (
        f"{adapter.name} made {tuple(result.shape)}, expected {shape_text(step.target)}"
    )
    return result.contiguous().reshape(-1)


def _whole(values: Values, dtype: str) -> torch.Tensor:
    import torch

    from surgery.checkpoint.tensors import flat_pieces
    from surgery.checkpoint.writing.casting import cast

    wanted, shape = getattr(torch, dtype), TensorSpec.of("", values).shape
    parts = [cast(piece, dtype)[0] for piece in flat_pieces(values)]
    return torch.cat(parts).reshape(shape) if parts else torch.empty(shape, dtype=wanted)
