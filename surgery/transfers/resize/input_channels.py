"""The first convolution for another number of image channels."""

from __future__ import annotations

import torch

from surgery.transfers.resize.resizer import Case, Fit, Resizer, Settings

#: Channels of grey, colour, and colour with an alpha or depth channel.
_IMAGES = (1, 3, 4)


def decide(case: Case) -> Fit | str:
    """Only the number of input channels differs, and the source reads images.

    Without being asked, only the network's first convolution is taken for its stem.
    """
    if len(case.target.shape) != 4 or not case.differs_in(1):
        return ""
    old, new = case.source.shape[1], case.target.shape[1]
    first = next((spec.name for spec in case.targets.values() if len(spec.shape) == 4), "")
    if not case.named and (old not in _IMAGES or case.target.name != first):
        return ""
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


RESIZER = Resizer(
    "input-channels",
    "convolutions that differ in their input channels alone",
    "timm.models.adapt_input_conv",
    decide,
    compute,
)
