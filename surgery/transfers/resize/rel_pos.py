"""Relative-position tables, resampled to another attention window.

A table has a row for every offset between two places in a window: ``(2h-1)(2w-1)`` of them, and
three more where a class token takes part (BEiT). LeViT's and TinyViT's have a column for every
absolute offset, ``h * w``. The shape says the window only where it is square, which is assumed
unless the settings ``old=7x7`` and ``new=8x16`` say the windows.
"""

from __future__ import annotations

import re
from math import isqrt, prod
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F

from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    NoFit,
    Resizer,
    Settings,
    grid,
    grid_text,
)

Window: TypeAlias = tuple[int, int]
_OFFSETS = re.compile(r"(^|\.)rel(ative)?_pos(ition)?_bias(_table)?$")
_ABSOLUTE = re.compile(r"(^|\.)attention_bias(es)?$")
#: Rows for class-to-place, place-to-class and class-to-class (timm's gen_relative_position_index).
_CLASS_ROWS = 3


def decide(case: Case) -> Fit | NoFit:
    """By the table's name; the number of heads is the same on both sides."""
    old, new = case.source.shape, case.target.shape
    absolute = bool(_ABSOLUTE.search(case.target.name))
    if not (case.named or absolute or _OFFSETS.search(case.target.name)):
        return NoFit("it is not named a table of relative positions")
    is_map = len(new) == 3 and not absolute
    heads = 0 if is_map or absolute else 1
    if len(old) != len(new) or len(new) != 2 + is_map or old[heads] != new[heads]:
        return NoFit("another number of heads", near=True)
    if is_map:
        return _decide_map(case)
    return _decide_rows(case, old[1 - heads], new[1 - heads], absolute)


def _decide_map(case: Case) -> Fit | NoFit:
    """``(heads, 2h-1, 2w-1)``, where the shape says everything."""
    shapes = (case.source.shape, case.target.shape)
    if not all(side % 2 for shape in shapes for side in shape[1:]):
        return NoFit("a window has an odd number of offsets", near=True)
    old, new = (((rows + 1) // 2, (columns + 1) // 2) for _, rows, columns in shapes)
    return _fit(old, new, "offsets", "")


def _decide_rows(case: Case, old: int, new: int, absolute: bool) -> Fit | NoFit:
    """``(offsets, heads)``, with or without the rows of a class token on both sides; or
    ``(heads, h * w)``.
    """
    kind = "absolute" if absolute else "offsets"
    for extra in (0,) if absolute else (0, _CLASS_ROWS):
        old_window = _window(case, "old", old - extra, kind)
        new_window = _window(case, "new", new - extra, kind)
        if old_window and new_window:
            kept = f", {extra} rows of the class token kept" if extra else ""
            return _fit(old_window, new_window, kind, f"{kept}{case.assumed_square()}")
    return NoFit(
        f"{old} and {new} offsets are not both those of square windows; say old=ROWSxCOLUMNS "
        "and new=ROWSxCOLUMNS",
        near=True,
    )


def _window(case: Case, side: str, offsets: int, kind: str) -> Window | None:
    """The window that has so many offsets: the one that was given, or a square one."""
    root = isqrt(max(offsets, 0))
    length = root if kind == "absolute" else (root + 1) // 2
    window = cast("Window", case.settings.get(side, (length, length)))
    found = prod(window) if kind == "absolute" else prod(2 * length - 1 for length in window)
    return window if found == offsets else None


def _fit(old: Window, new: Window, kind: str, rest: str) -> Fit:
    reference = _LEVIT if kind == "absolute" else ""
    what = f"{grid_text(old)} window to {grid_text(new)}{rest}"
    return Fit(what, {"kind": kind, "old": old, "new": new}, reference=reference)


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """A table of the old window to one of the new window."""
    from timm.layers import resize_rel_pos_bias_table

    old, new = cast("Window", settings["old"]), cast("Window", settings["new"])
    if settings["kind"] == "absolute":
        # What timm's function computes for square windows.
        table = F.interpolate(source.reshape(1, -1, *old), new, mode="bicubic", antialias=True)
        return table.reshape(target.shape)
    # Timm's versions before `old_window_size` know square windows alone.
    oblong = {"old_window_size": old} if old[0] != old[1] and source.dim() == 2 else {}
    result: torch.Tensor = resize_rel_pos_bias_table(source, new, tuple(target.shape), **oblong)
    return result


_LEVIT = "timm.layers.resize_rel_pos_bias_table_levit"

RESIZER = Resizer(
    "rel-pos",
    "timm.layers.resize_rel_pos_bias_table",
    decide,
    compute,
    options={"old": grid, "new": grid},
)
