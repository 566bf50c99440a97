"""A narrower network from a wider one, by uniform selection.

Evenly spaced indices are kept along every axis ("Initializing Models with Larger Ones", Xu et al.
2024). They follow from the two sizes of an axis alone, so that every tensor that produces a width
keeps the channels that every other tensor consumes. An axis that holds several widths side by
side (the rows of a fused qkv) is selected from part by part.

A width is a pair of sizes that some tensor produces, on its first axis, and some tensor consumes,
on another. The classes of a head are consumed by nothing, and are not selected from; nor are
the rows of a matrix that is the last layer, whose number may be that of a width by chance.
"""

from __future__ import annotations

import re
from typing import cast

import torch

from surgery.transfers.resize.resizer import Case, Fit, Resizer, Settings

_FUSED = re.compile(r"(qkv|in_proj|c_attn|query_key_value)")


def decide(case: Case) -> Fit | str:
    """Every axis that differs is a width of the network, and it shrinks."""
    source, target = case.source.shape, case.target.shape
    if len(source) != len(target) or source == target:
        return ""
    if case.widths and source[0] != target[0] and _is_last(case):
        return "the rows of the last layer may be classes: class-rows says which"
    parts = [_parts(case, old, new) for old, new in zip(source, target, strict=True)]
    if not all(parts):
        return ""
    if any(old < new for old, new in zip(source, target, strict=True)):
        return "uniform selection takes from a wider network, and this one grows"
    changes = [
        f"{old} to {new}{f' in {part} parts' if part > 1 else ''}"
        for old, new, part in zip(source, target, parts, strict=True)
        if old != new
    ]
    return Fit(f"evenly spaced, {', '.join(changes)}", {"parts": tuple(parts)})


def _is_last(case: Case) -> bool:
    """Whether the tensor belongs to a matrix that is the network's last layer."""
    last = next((spec.name for spec in reversed([*case.targets.values()]) if spec.is_floating), "")
    path = last.rpartition(".")[0]
    weight = case.targets.get(f"{path}.weight" if path else "weight")
    is_in_it = case.target.name.rpartition(".")[0] == path
    return is_in_it and weight is not None and len(weight.shape) == 2


def _parts(case: Case, old: int, new: int) -> int:
    """How many widths lie side by side on the axis; 0 where it is none of the network's."""
    if old == new:
        return 1
    for parts in (3, 1, 2) if _FUSED.search(case.target.name) else (1, 2, 3):
        if old % parts == new % parts == 0 and (old // parts, new // parts) in case.widths:
            return parts
    # A layer by itself has no widths to go by; in a network, what is none are classes.
    return 1 if case.named and not case.widths else 0


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The elements at evenly spaced indices of every axis."""
    result = source
    parts = cast("tuple[int, ...]", settings["parts"])
    for axis, (new, part) in enumerate(zip(target.shape, parts, strict=True)):
        result = result.index_select(axis, _indices(result.shape[axis], new, part))
    return result


def _indices(old: int, new: int, parts: int) -> torch.Tensor:
    """Every (old/new)-th where that is whole, else rounded steps from the first to the last."""
    old, new = old // parts, new // parts
    if old % new == 0:
        within = torch.arange(new, dtype=torch.int64) * (old // new)
    else:
        within = torch.linspace(0, old - 1, new, dtype=torch.float64).round().long()
    starts = torch.arange(parts, dtype=torch.int64) * old
    return (starts[:, None] + within).reshape(-1)


RESIZER = Resizer(
    "width",
    "tensors of which every axis that differs is a width of the network",
    "Initializing Models with Larger Ones (Xu et al. 2024)",
    decide,
    compute,
)
