"""Patch embeddings for patches of another size, by the pseudo-inverse of the resize.

The new kernel gives, on patches that were resized, what the old one gave on the patches
themselves, as nearly as can be.
"""

from __future__ import annotations

import re

import torch

from surgery.transfers.resize.resizer import Case, Fit, Resizer, Settings, grid_text

#: timm's, torchvision's and transformers' names; a hybrid's backbone has longer ones.
_PATCHES = re.compile(r"(^|[._])(patch_?embed(ding)?s?(\.proj(ection)?)?|conv_proj)\.weight$")


def decide(case: Case) -> Fit | str:
    """A convolution by its name, of which nothing but the patch differs."""
    if not (case.named or _PATCHES.search(case.target.name)):
        return ""
    if len(case.target.shape) != 4 or not case.differs_in(2, 3):
        return "more than the patch size differs"
    old, new = grid_text(case.source.shape[2:]), grid_text(case.target.shape[2:])
    return Fit(f"{old} patches to {new}, by the pseudo-inverse of the bicubic resize")


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(out, in, h, w) to (out, in, new h, new w)."""
    from timm.layers import resample_patch_embed

    result: torch.Tensor = resample_patch_embed(source, list(target.shape[2:]))
    return result


RESIZER = Resizer(
    "patch-embed",
    "convolutions that differ in their patch size alone",
    "FlexiViT (Beyer et al. 2023), timm.layers.resample_patch_embed",
    decide,
    compute,
)
