"""The first convolution for another number of image channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surgery.transfers.resize.resizer import Case, Fit, NoFit, Resizer, Settings
from surgery.wording import shape_text

#: Channels of grey, colour, and colour with an alpha or depth channel.
_IMAGES = (1, 3, 4)


def decide(case: Case) -> Fit | NoFit:
    """Only the number of input channels differs, and the source reads images.

    Without being asked, only the network's first convolution is taken for its stem.
    """
    source, target = case.source.shape, case.target.shape
    if not (len(source) == len(target) == 4) or _apart_from_input(source) != _apart_from_input(
        target
    ):
        return NoFit("more than the input channels differs")
    old, new = source[1], target[1]
    if old == new:
        return NoFit(f"both read {old} channels")
    first = next((spec.name for spec in case.targets.values() if len(spec.shape) == 4), "")
    if not case.named and (old not in _IMAGES or case.target.name != first):
        return NoFit(f"it is no stem of an image network: {shape_text(case.source.shape)}")
    return Fit(_what_is_done(old, new))


def _apart_from_input(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:])


def _what_is_done(old: int, new: int) -> str:
    if new == 1:
        return f"{old} input channels to 1: their sum"
    how = "repeated" if new > old else "the first ones"
    return f"{old} input channels to {new}: {how}, scaled by {old}/{new}"


def compute(
    source: torch.Tensor,
    shape: tuple[int, ...],
    settings: Settings,
    initial: torch.Tensor | None,
) -> torch.Tensor:
    """(out, old, h, w) to (out, new, h, w)."""
    from timm.models import adapt_input_conv

    weight, new = source, shape[1]
    old = weight.shape[1]
    if old == 3:
        result: torch.Tensor = adapt_input_conv(new, weight)
        return result
    if new == 1:
        return weight.sum(1, keepdim=True)
    # Timm's versions before `base_chans` know three channels alone; the formula is the same.
    return weight.repeat(1, -(-new // old), 1, 1)[:, :new] * (old / new)


RESIZER = Resizer("input-channels", "timm.models.adapt_input_conv", decide, compute)
