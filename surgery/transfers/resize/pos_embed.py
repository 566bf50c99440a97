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
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import isqrt, prod
from typing import TypeAlias, cast

import torch

from surgery.specs import TensorSpec
from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    NoFit,
    Resizer,
    Settings,
    count,
    grid,
    grid_text,
    one_of,
)
from surgery.wording import counted

_POSITIONS = re.compile(r"(^|[._])(patch_)?pos(ition(al|s)?)?(_?emb|_?enc|$|\.weight$)")
_WORDS = re.compile(r"tok.*emb|word|wte")
#: Tokens that stand before the patches, in the order in which every library puts them.
_TOKENS = (
    re.compile(r"(^|_)(cls|class)(_token|_embedding|$)"),
    re.compile(r"(^|_)dist(illation)?_token"),
    re.compile(r"(^|_)reg(ister)?(_token)?s?$"),
)
#: How tokens may be read: the number of prefix tokens, and the grid of all others.
Reading: TypeAlias = tuple[int, tuple[int, ...]]


def decide(case: Case) -> Fit | NoFit:
    """An embedding by its name, for a grid of patches by the convolution of its width nearby."""
    source, target = case.source.shape, case.target.shape
    if not case.named and not _POSITIONS.search(case.target.name):
        return NoFit("it is not named a positional embedding")
    if len(source) != len(target) or len(source) not in (2, 3, 4) or source[-1] != target[-1]:
        return NoFit("not two embeddings of one width", near=True)
    if len(source) > 2 and (source[0] != 1 or target[0] != 1):
        return NoFit("one embedding at a time can be resampled", near=True)
    if len(source) == 4:
        # NesT keeps (1, blocks, positions, width) under this name.
        if not case.named and (source[1] == target[1] or source[2] == target[2]):
            return NoFit("only one of its sides differs: blocks, perhaps, and no rows", near=True)
        return _fit(case, (0, source[1:3]), (0, target[1:3]))
    if not case.named and not _of_patches(case):
        return NoFit("no patch embedding of its width lies near: text, perhaps", near=True)
    return _decide_tokens(case)


def _of_patches(case: Case) -> bool:
    """Whether the nearest thing of its width is a convolution, and no table of words.

    Text has positions too, and they lie on no grid.
    """
    width = case.target.shape[-1]
    for near in _surroundings(case.target.name, case.targets):
        own = [spec for spec in near if width in spec.shape and not _POSITIONS.search(spec.name)]
        words = any(len(spec.shape) == 2 and _WORDS.search(spec.name) for spec in own)
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


def _decide_tokens(case: Case) -> Fit | NoFit:
    """``(1, tokens, width)`` or ``(tokens, width)``, where both sides have one reading."""
    found: list[list[Reading]] = []
    for side, name, spec, specs in (
        ("old", case.source_name, case.source, case.sources),
        ("new", case.target.name, case.target, case.targets),
    ):
        tokens, width = spec.shape[-2:]
        given = cast("tuple[int, int] | None", case.settings.get(side))
        prefixes = _prefixes(name, specs, width)
        if "prefix" in case.settings:
            prefixes = [cast("int", case.settings["prefix"])]
        readings: list[Reading] = []
        for prefix in prefixes:
            sides = given or (isqrt(max(tokens - prefix, 0)),) * 2
            if tokens - prefix == prod(sides) > 0:
                readings.append((prefix, sides))
        if not readings:
            what = f"{grid_text(given)} grid" if given else "square grid"
            behind = " or ".join(map(str, prefixes))
            return NoFit(
                f"{tokens} {side} tokens are no {what} behind {behind} prefix tokens; say "
                f"{side}=ROWSxCOLUMNS and, if need be, prefix=N",
                near=True,
            )
        found.append(readings)
    pairs = [(old, new) for old in found[0] for new in found[1] if old[0] >= new[0]]
    pairs = [(old, new) for old, new in pairs if old[0] == new[0]] or pairs
    if len(pairs) == 1:
        return _fit(case, *pairs[0], case.assumed_square())
    old, new = (
        " or ".join(f"{grid_text(sides)} behind {n}" for n, sides in readings) for readings in found
    )
    return NoFit(f"ambiguous: {old} to {new}; say prefix=N", near=True)


def _prefixes(name: str, specs: Mapping[str, TensorSpec], width: int) -> list[int]:
    """How many tokens may stand before the grid: none, the class token, and so on to all."""
    for near in _surroundings(name, specs):
        tokens = [
            (spec.name.rpartition(".")[2], prod(spec.shape[:-1]))
            for spec in near
            if spec.shape[-1:] == (width,) and len(spec.shape) <= 3
        ]
        counts = [
            next((number for leaf, number in tokens if called.search(leaf)), 0)
            for called in _TOKENS
        ]
        if any(counts):
            return list(dict.fromkeys((0, *accumulate(counts))))
    return [0]


def _fit(case: Case, old: Reading, new: Reading, assumed: str = "") -> Fit:
    (had, old_grid), (prefix, new_grid) = old, new
    mode = case.settings.get("mode", "bicubic")
    reason = f"{grid_text(old_grid)} grid to {grid_text(new_grid)}, {mode}"
    if had:
        reason += f", {counted(prefix, 'prefix token')} kept"
    if had > prefix:
        reason += f", {had - prefix} dropped"
    settings: Settings = {
        "old": old_grid,
        "new": new_grid,
        "prefix": prefix,
        "drop": had - prefix,
        "mode": mode,
    }
    return Fit(reason + assumed, settings)


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(..., old tokens, width) to (..., new tokens, width), or the same of maps."""
    from timm.layers import resample_abs_pos_embed

    old, new = (list(cast("tuple[int, int]", settings[side])) for side in ("old", "new"))
    prefix, drop = cast("int", settings["prefix"]), cast("int", settings["drop"])
    flat = source.reshape(1, -1, source.shape[-1])
    flat = torch.cat((flat[:, :prefix], flat[:, prefix + drop :]), dim=1)
    result: torch.Tensor = resample_abs_pos_embed(
        flat, new, old, num_prefix_tokens=prefix, interpolation=settings["mode"]
    )
    return result.reshape(target.shape)


RESIZER = Resizer(
    "pos-embed",
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
