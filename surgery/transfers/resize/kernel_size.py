"""Convolution kernels of another size.

By default the kernels share their centre: zeros around the old one, or its border cut off. Around
zeros nothing changes at all, as long as the layer's padding grows with its kernel (Network
Morphism, Wei et al. 2016); the centre of a large kernel is what Once-for-All (Cai et al. 2020)
takes for a smaller one. The setting ``how=interpolate`` resizes the kernel instead, as UpKern does
for larger ones (MedNeXt, Roy et al. 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    Resizer,
    Settings,
    grid_text,
    one_of,
)

#: By the number of a kernel's axes.
_MODES = ("linear", "bilinear", "trilinear")
_PAD = "Network Morphism (Wei et al. 2016)"
_CROP = "Once-for-All (Cai et al. 2020)"
_INTERPOLATE = "UpKern, MedNeXt (Roy et al. 2023)"


def decide(case: Case) -> Fit | str:
    """A convolution, of which nothing but the kernel differs."""
    if not case.differs_in(2, 3, 4) or not (case.named or _is_convolution(case)):
        return ""
    sides = (case.source.shape[2:], case.target.shape[2:])
    growth = [new - old for old, new in zip(*sides, strict=True)]
    old, new = map(grid_text, sides)
    if case.settings.get("how") == "interpolate":
        how = {"how": "interpolate"}
        return Fit(f"{old} kernel to {new}, interpolated", how, reference=_INTERPOLATE)
    if any(side % 2 for side in growth):
        return f"a {old} and a {new} kernel have no common centre; how=interpolate resizes it"
    done = {}
    if max(growth) > 0:
        done["zeros around it"] = _PAD
    if min(growth) < 0:
        done["its centre alone"] = _CROP
    reason, reference = ", ".join(done), ", ".join(done.values())
    return Fit(f"{old} kernel to {new}: {reason}", {"how": "centre"}, reference=reference)


def _is_convolution(case: Case) -> bool:
    if case.types:
        return any("conv" in name.lower() for name in case.types)
    return len(case.target.shape) >= 4 and case.target.name.rpartition(".")[2] == "weight"


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(out, in, ...) to the same with the kernel's sides of ``target``."""
    size = target.shape[2:]
    if settings["how"] == "interpolate":
        return F.interpolate(source, size=size, mode=_MODES[len(size) - 1])
    # F.pad counts axes from the last, and cuts where the number is negative.
    margins = [(new - old) // 2 for old, new in zip(source.shape[2:], size, strict=True)]
    return F.pad(source, [margin for margin in reversed(margins) for _ in "<>"])


RESIZER = Resizer(
    "kernel-size",
    "convolutions that differ in their kernel size alone",
    _PAD,
    decide,
    compute,
    options={"how": one_of("centre", "interpolate")},
)
