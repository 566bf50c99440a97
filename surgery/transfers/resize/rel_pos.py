"""Relative-position tables, resampled to another attention window.

A table has a row for every offset between two places in a window: ``(2h-1)(2w-1)`` of them, and
three more where a class token takes part (BEiT). LeViT's and TinyViT's have a column for every
absolute offset, ``h * w``. The shape says the window only where it is square, which is assumed
unless the settings ``old=7x7`` and ``new=8x16`` say the windows.
"""

from __future__ import annotations

import re
from typing import cast

import torch
import torch.nn.functional as F

from surgery.transfers.resize.grids import Grid, read_grids
from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    Resizer,
    Settings,
    grid,
    grid_text,
)

_OFFSETS = re.compile(r"(^|\.)rel(ative)?_pos(ition)?_bias(_table)?$")
_ABSOLUTE = re.compile(r"(^|\.)attention_bias(es)?$")
#: Rows for class-to-place, place-to-class and class-to-class (timm's gen_relative_position_index).
_CLASS_ROWS = 3


def decide(case: Case) -> Fit | str:
    """By the table's name; the number of heads is the same on both sides.

    It is ``(offsets, heads)``, with or without the rows of a class token on both sides,
    ``(heads, 2h-1, 2w-1)``, or ``(heads, h * w)``.
    """
    old, new = case.source.shape, case.target.shape
    absolute = bool(_ABSOLUTE.search(case.target.name))
    if not (case.named or absolute or _OFFSETS.search(case.target.name)):
        return ""
    by_heads = absolute or len(new) == 3
    heads = 0 if by_heads else 1
    if len(old) != len(new) or len(new) not in (2, 3 - absolute) or old[heads] != new[heads]:
        return "another number of heads"
    places = (old[1:], new[1:]) if by_heads else (old[:1], new[:1])
    others = (0,) if by_heads else (0, _CLASS_ROWS)
    found = read_grids(case, places, (others, others), offsets=not absolute)
    if isinstance(found, str):
        return found
    (extra, old_window), (new_extra, new_window), assumed = found
    if extra != new_extra:
        return "one of the tables has no rows of a class token"
    kept = f", {extra} rows of the class token kept" if extra else ""
    kind = "absolute" if absolute else "offsets"
    return Fit(
        f"{grid_text(old_window)} window to {grid_text(new_window)}{kept}{assumed}",
        {"kind": kind, "old": old_window, "new": new_window},
        reference=_LEVIT if absolute else "",
    )


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """A table of the old window to one of the new window."""
    from timm.layers import resize_rel_pos_bias_table

    old, new = cast("Grid", settings["old"]), cast("Grid", settings["new"])
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
    "tables of relative positions",
    "timm.layers.resize_rel_pos_bias_table",
    decide,
    compute,
    options={"old": grid, "new": grid},
)
