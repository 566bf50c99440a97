"""Convolution kernels of another size.

By default the kernels share their centre: zeros around the old one, or its border cut off. Around
zeros nothing changes at all, as long as the layer's padding grows with its kernel (Network
Morphism, Wei et al. 2016); the centre of a large kernel is what Once-for-All (Cai et al. 2020)
takes for a smaller one. The setting ``how=interpolate`` resizes the kernel instead, as UpKern does
for larger ones (MedNeXt, Roy et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    NoFit,
    Resizer,
    Settings,
    grid_text,
    one_of,
)

_REFERENCES = {
    "pad": "Network Morphism (Wei et al. 2016)",
    "crop": "Once-for-All (Cai et al. 2020)",
    "interpolate": "UpKern, MedNeXt (Roy et al. 2023)",
}


def decide(case: Case) -> Fit | NoFit:
    """A convolution, of which nothing but the kernel differs."""
    source, target = case.source.shape, case.target.shape
    if len(source) != len(target) or len(source) not in (3, 4, 5) or source[:2] != target[:2]:
        return NoFit("more than the kernel differs")
    if not case.named and not _is_convolution(case):
        return NoFit("it is no convolution")
    old, new = source[2:], target[2:]
    if old == new:
        return NoFit(f"both kernels are {grid_text(old)}")
    if case.settings.get("how") == "interpolate":
        what, how = f"{grid_text(old)} kernel to {grid_text(new)}", "interpolate"
        return Fit(f"{what}, interpolated", {"how": how}, reference=_REFERENCES[how])
    if any((a - b) % 2 for a, b in zip(old, new, strict=True)):
        return NoFit(
            f"a {grid_text(old)} and a {grid_text(new)} kernel have no common centre; "
            "how=interpolate resizes it",
            near=True,
        )
    return _around_the_centre(old, new)


def _is_convolution(case: Case) -> bool:
    if case.types:
        return any("conv" in name.lower() for name in case.types)
    return len(case.target.shape) >= 4 and case.target.name.rpartition(".")[2] == "weight"


def _around_the_centre(old: Sequence[int], new: Sequence[int]) -> Fit:
    grown = any(b > a for a, b in zip(old, new, strict=True))
    cut = any(b < a for a, b in zip(old, new, strict=True))
    done = [*(["zeros around it"] if grown else []), *(["its centre alone"] if cut else [])]
    names = [*(["pad"] if grown else []), *(["crop"] if cut else [])]
    return Fit(
        f"{grid_text(old)} kernel to {grid_text(new)}: {', '.join(done)}",
        {"how": "centre"},
        reference=", ".join(_REFERENCES[name] for name in names),
    )


def compute(
    source: torch.Tensor,
    shape: tuple[int, ...],
    settings: Settings,
    initial: torch.Tensor | None,
) -> torch.Tensor:
    """(out, in, ...) to the same with the kernel's sides of ``shape``."""
    kernel = source
    if settings["how"] == "interpolate":
        mode = ("linear", "bilinear", "trilinear")[len(shape) - 3]
        return F.interpolate(kernel, size=shape[2:], mode=mode)
    sides = zip(kernel.shape[2:], shape[2:], strict=True)
    # F.pad counts axes from the last, and cuts where the number is negative.
    margins = [(new - old) // 2 for old, new in sides]
    return F.pad(kernel, [margin for margin in reversed(margins) for _ in "<>"])


RESIZER = Resizer(
    "kernel-size",
    _REFERENCES["pad"],
    decide,
    compute,
    options={"how": one_of("centre", "interpolate")},
)
