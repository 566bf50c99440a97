"""The first convolution for another number of image channels."""

from __future__ import annotations

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
    if not len(source) == len(target) == 4 or (source[0], *source[2:]) != (target[0], *target[2:]):
        return NoFit("more than the input channels differs")
    old, new = source[1], target[1]
    if old == new:
        return NoFit(f"both read {old} channels")
    first = next((spec.name for spec in case.targets.values() if len(spec.shape) == 4), "")
    if not case.named and (old not in _IMAGES or case.target.name != first):
        return NoFit(f"it is no stem of an image network: {shape_text(source)}")
    if new == 1:
        return Fit(f"{old} input channels to 1: their sum")
    how = "repeated" if new > old else "the first ones"
    return Fit(f"{old} input channels to {new}: {how}, scaled by {old}/{new}")


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(out, old, h, w) to (out, new, h, w); timm's formula, for any number of old channels."""
    old, new = source.shape[1], target.shape[1]
    if new == 1:
        return source.sum(1, keepdim=True)
    return source.repeat(1, -(-new // old), 1, 1)[:, :new] * (old / new)


RESIZER = Resizer("input-channels", "timm.models.adapt_input_conv", decide, compute)
