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
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import isqrt, prod
from typing import cast

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
    setting_text,
    surroundings,
)

_POSITIONS = re.compile(r"(^|[._])(patch_)?pos(ition(al|s)?)?(_?emb|_?enc|$|\.weight$)")
#: Tokens that stand before the patches, in the order in which every library puts them.
_TOKENS = (
    re.compile(r"(^|_)(cls|class)(_token|_embedding|$)"),
    re.compile(r"(^|_)dist(illation)?_token"),
    re.compile(r"(^|_)reg(ister)?(_token)?s?$"),
)
Grid = tuple[int, int]


def decide(case: Case) -> Fit | NoFit:
    """An embedding by its name, for a grid of patches by the convolution of its width nearby."""
    source, target = case.source.shape, case.target.shape
    if not case.named and not _POSITIONS.search(case.target.name):
        return NoFit("it is not named a positional embedding")
    if len(source) != len(target) or len(source) not in (2, 3, 4) or source[-1] != target[-1]:
        return NoFit("not two embeddings of one width", near=True)
    if len(source) == 4:
        return _decide_map(case)
    if prod(source[:-2]) != 1 or prod(target[:-2]) != 1:
        return NoFit("one embedding at a time can be resampled", near=True)
    if not case.named and not _of_patches(case):
        return NoFit("no patch embedding of its width lies near: text, perhaps", near=True)
    return _decide_tokens(case)


def _of_patches(case: Case) -> bool:
    """Whether the nearest thing of its width is a convolution, and no table of words.

    Text has positions too, and they lie on no grid.
    """
    width = case.target.shape[-1]
    for near in surroundings(case.target.name, case.targets):
        own = [spec for spec in near if width in spec.shape and not _POSITIONS.search(spec.name)]
        words = [s for s in own if len(s.shape) == 2 and re.search(r"tok.*emb|word|wte", s.name)]
        patches = [s for s in own if len(s.shape) >= 4 and s.shape[0] == width]
        if words or patches:
            return bool(patches) and not words
    return False


def _decide_map(case: Case) -> Fit | NoFit:
    """``(1, rows, columns, width)``, where the shape says everything."""
    old, new = case.source.shape[1:3], case.target.shape[1:3]
    if case.source.shape[0] != 1 or case.target.shape[0] != 1:
        return NoFit("one embedding at a time can be resampled", near=True)
    if not case.named and (old[0] == new[0] or old[1] == new[1]):
        # NesT keeps (1, blocks, positions, width) under this name.
        return NoFit("only one of its sides differs: blocks, perhaps, and no rows", near=True)
    settings: Settings = {"old": old, "new": new, "drop": 0, "prefix": 0, **_mode(case)}
    return Fit(_what_is_done(case, old, new, 0, 0, ""), settings, reference=_NHWC)


def _decide_tokens(case: Case) -> Fit | NoFit:
    old, new = (_readings(case, side) for side in ("old", "new"))
    for side, readings in (("old", old), ("new", new)):
        if not readings:
            return NoFit(_no_grid(case, side), near=True)
    pairs = [(a, b) for a in old for b in new if a[0] >= b[0]]
    same = [(a, b) for a, b in pairs if a[0] == b[0]]
    pairs = same or pairs
    if len(pairs) != 1:
        return NoFit(_many_grids(old, new), near=True)
    ((old_prefix, old_grid), (prefix, new_grid)) = pairs[0]
    guessed = [side for side in ("old", "new") if side not in case.settings]
    reason = _what_is_done(case, old_grid, new_grid, old_prefix, prefix, _assumed(guessed))
    settings: Settings = {
        "old": old_grid,
        "new": new_grid,
        "prefix": prefix,
        "drop": old_prefix - prefix,
        **_mode(case),
    }
    return Fit(reason, settings)


def _readings(case: Case, side: str) -> list[tuple[int, Grid]]:
    """The ways to read one side's tokens as (prefix tokens, grid of all others)."""
    name, specs = case.sides[side == "new"]
    tokens = (case.target if side == "new" else case.source).shape[-2]
    given = case.settings.get(side)
    counts: Iterable[int] = _prefixes(name, specs, case.target.shape[-1])
    if "prefix" in case.settings:
        counts = [cast("int", case.settings["prefix"])]
    readings = []
    for prefix in counts:
        patches = tokens - prefix
        sides = cast("Grid", given) if given else (isqrt(max(patches, 0)),) * 2
        if patches > 0 and prod(sides) == patches:
            readings.append((prefix, sides))
    return readings


def _prefixes(name: str, specs: Mapping[str, TensorSpec], width: int) -> list[int]:
    """How many tokens may stand before the grid: none, the class token, and so on to all."""
    for near in surroundings(name, specs):
        counts = [_tokens_called(pattern, near, width) for pattern in _TOKENS]
        if any(counts):
            return list(dict.fromkeys((0, *accumulate(counts))))
    return [0]


def _tokens_called(pattern: re.Pattern[str], specs: Sequence[TensorSpec], width: int) -> int:
    found = [
        prod(spec.shape[:-1])
        for spec in specs
        if pattern.search(spec.name.rpartition(".")[2])
        and spec.shape[-1:] == (width,)
        and len(spec.shape) <= 3
    ]
    return found[0] if found else 0


def _no_grid(case: Case, side: str) -> str:
    name, specs = case.sides[side == "new"]
    tokens = (case.target if side == "new" else case.source).shape[-2]
    prefixes = " or ".join(map(str, _prefixes(name, specs, case.target.shape[-1])))
    if side in case.settings or "prefix" in case.settings:
        given = ", ".join(f"{key}={setting_text(value)}" for key, value in case.settings.items())
        return f"{tokens} {side} tokens are not what {given} says"
    return (
        f"{tokens} {side} tokens are no square grid behind {prefixes} prefix tokens; say "
        f"{side}=ROWSxCOLUMNS and, if need be, prefix=N"
    )


def _many_grids(old: Sequence[tuple[int, Grid]], new: Sequence[tuple[int, Grid]]) -> str:
    def text(readings: Sequence[tuple[int, Grid]]) -> str:
        return " or ".join(f"{grid_text(sides)} behind {n}" for n, sides in readings)

    return f"ambiguous: {text(old)} to {text(new)}; say prefix=N"


def _assumed(sides: Sequence[str]) -> str:
    which = {0: "", 1: f"; the {''.join(sides)} grid is", 2: "; both grids are"}[len(sides)]
    return f"{which} assumed to be square" if which else ""


def _what_is_done(
    case: Case, old: Sequence[int], new: Sequence[int], had: int, prefix: int, assumed: str
) -> str:
    mode = cast("str", _mode(case)["mode"])
    what = f"{grid_text(old)} grid to {grid_text(new)}, {mode}"
    if had:
        dropped = f", {had - prefix} dropped" if had > prefix else ""
        what += f", {prefix} prefix token{'s' * (prefix != 1)} kept{dropped}"
    return what + assumed


def _mode(case: Case) -> Settings:
    return {"mode": case.settings.get("mode", "bicubic")}


def compute(
    source: torch.Tensor,
    shape: tuple[int, ...],
    settings: Settings,
    initial: torch.Tensor | None,
) -> torch.Tensor:
    """(..., old tokens, width) to (..., new tokens, width), or the same of maps."""
    from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc

    old, new = cast("Grid", settings["old"]), cast("Grid", settings["new"])
    mode = cast("str", settings["mode"])
    if len(shape) == 4:
        result: torch.Tensor = resample_abs_pos_embed_nhwc(source, list(new), interpolation=mode)
        return result
    prefix, drop = cast("int", settings["prefix"]), cast("int", settings["drop"])
    flat = source.reshape(1, -1, shape[-1])
    if drop:
        flat = torch.cat((flat[:, :prefix], flat[:, prefix + drop :]), dim=1)
    result = resample_abs_pos_embed(
        flat, list(new), list(old), num_prefix_tokens=prefix, interpolation=mode
    )
    return result.reshape(shape)


_NHWC = "timm.layers.resample_abs_pos_embed_nhwc"

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
