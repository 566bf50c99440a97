"""Absolute positional embeddings of image patches, resampled to another grid.

Most lie flat, ``(1, tokens, width)`` or ``(tokens, width)``: first the prefix tokens (class,
distillation, registers, or none), then the grid row by row. Neither the number of prefix tokens
nor the grid's sides are in the shape. They follow from the tokens that the model has beside
its embedding and from the assumption that the grid is square, which the plan then says; where that
leaves none or several readings, the resizer does not apply until the settings ``old=14x14``,
``new=7x28`` and ``prefix=1`` say more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import cast

import torch

from surgery.specs import TensorSpec
from surgery.transfers.resize.grids import Grid, read_grids
from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    Resizer,
    Settings,
    count,
    grid,
    grid_text,
    one_of,
)
from surgery.transfers.resize.vocabulary import is_called_words
from surgery.wording import counted

_POSITIONS = re.compile(r"(^|[._])(patch_)?pos(ition(al|s)?)?(_?emb|_?enc|$|\.weight$)")
#: Tokens that stand before the patches, in the order in which every library puts them.
_TOKENS = (
    re.compile(r"(^|_)(cls|class)(_token|_embedding|$)"),
    re.compile(r"(^|_)dist(illation)?_token"),
    re.compile(r"(^|_)reg(ister)?(_token)?s?$"),
)


def decide(case: Case) -> Fit | str:
    """An embedding by its name, for a grid of patches by the convolution of its width nearby."""
    source, target = case.source.shape, case.target.shape
    if not case.named and not _POSITIONS.search(case.target.name):
        return ""
    if len(source) != len(target) or len(source) not in (2, 3, 4) or source[-1] != target[-1]:
        return "not two embeddings of one width"
    if len(source) > 2 and (source[0] != 1 or target[0] != 1):
        return "one embedding at a time can be resampled"
    is_map = len(source) == 4
    if not case.named and is_map and (source[1] == target[1] or source[2] == target[2]):
        # NesT keeps (1, blocks, positions, width) under this name.
        return "only one of its sides differs: blocks, perhaps, and no rows"
    if not case.named and not is_map and not _of_patches(case):
        return "no patch embedding of its width lies near: text, perhaps"
    sides = ((case.source_name, case.sources), (case.target.name, case.targets))
    old_prefixes, new_prefixes = ([0] if is_map else _prefixes(case, *side) for side in sides)
    first = 1 if len(source) > 2 else 0
    places = (source[first:-1], target[first:-1])
    found = read_grids(case, places, (old_prefixes, new_prefixes))
    if isinstance(found, str):
        return f"{found}, or prefix=N for those before the grid"
    (had, old), (prefix, new), assumed = found
    mode = case.settings.get("mode", "bicubic")
    kept = f", {counted(prefix, 'prefix token')} kept" if had else ""
    dropped = f", {had - prefix} dropped" if had > prefix else ""
    return Fit(
        f"{grid_text(old)} grid to {grid_text(new)}, {mode}{kept}{dropped}{assumed}",
        {"old": old, "new": new, "prefix": prefix, "mode": mode},
    )


def _of_patches(case: Case) -> bool:
    """Whether the nearest thing of its width is a convolution, and no table of words.

    Text has positions too, and they lie on no grid.
    """
    width = case.target.shape[-1]
    for near in _surroundings(case.target.name, case.targets):
        own = [spec for spec in near if width in spec.shape and not _POSITIONS.search(spec.name)]
        words = any(is_called_words(spec.name) for spec in own)
        patches = any(len(spec.shape) >= 4 and spec.shape[0] == width for spec in own)
        if words or patches:
            return patches and not words
    return False


def _surroundings(name: str, specs: Mapping[str, TensorSpec]) -> Iterator[list[TensorSpec]]:
    """The tensors below every ancestor of ``name``, the nearest ancestor first."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        start = f"{path}." if path else ""
        yield [spec for other, spec in specs.items() if other.startswith(start) and other != name]


def _prefixes(case: Case, name: str, specs: Mapping[str, TensorSpec]) -> Sequence[int]:
    """How many tokens may stand before the grid: none, the class token, and so on to all."""
    if "prefix" in case.settings:
        return [cast("int", case.settings["prefix"])]
    width = case.target.shape[-1]
    for near in _surroundings(name, specs):
        tokens = [
            (spec.name.rpartition(".")[2], prod(spec.shape[:-1]))
            for spec in near
            if spec.shape[-1:] == (width,) and len(spec.shape) <= 3
        ]
        counts = [next((n for leaf, n in tokens if kind.search(leaf)), 0) for kind in _TOKENS]
        if any(counts):
            return list(dict.fromkeys((0, *accumulate(counts))))
    return [0]


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(..., old tokens, width) to (..., new tokens, width), or the same of maps."""
    from timm.layers import resample_abs_pos_embed

    old, new = cast("Grid", settings["old"]), cast("Grid", settings["new"])
    prefix = cast("int", settings["prefix"])
    flat = source.reshape(1, -1, source.shape[-1])
    kept = torch.cat((flat[:, :prefix], flat[:, -prod(old) :]), dim=1)
    result: torch.Tensor = resample_abs_pos_embed(
        kept, list(new), list(old), num_prefix_tokens=prefix, interpolation=settings["mode"]
    )
    return result.reshape(target.shape)


RESIZER = Resizer(
    "pos-embed",
    "positional embeddings of one width",
    "timm.layers.resample_abs_pos_embed",
    decide,
    compute,
    options={
        "old": grid,
        "new": grid,
        "prefix": count,
        "mode": one_of("bicubic", "bilinear"),
    },
)
