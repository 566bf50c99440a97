"""Relative-position tables, resampled to another attention window.

A table has a row for every offset between two places in a window: ``(2h-1)(2w-1)`` of them, and
three more where a class token takes part (BEiT). LeViT's and TinyViT's have a column for every
absolute offset, ``h * w``. The shape says the window only where it is square, which is assumed
unless the settings ``old=7x7`` and ``new=8x16`` say the windows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isqrt, prod
from typing import cast

import torch

from surgery.transfers.resize.resizer import (
    Case,
    Fit,
    NoFit,
    Resizer,
    Settings,
    grid,
    grid_text,
)

Window = tuple[int, int]
_OFFSETS = re.compile(r"(^|\.)rel(ative)?_pos(ition)?_bias(_table)?$")
_ABSOLUTE = re.compile(r"(^|\.)attention_bias(es)?$")
#: Rows for class-to-place, place-to-class and class-to-class (timm's gen_relative_position_index).
_CLASS_ROWS = 3


def decide(case: Case) -> Fit | NoFit:
    """By the table's name; the number of heads is the same on both sides."""
    if _ABSOLUTE.search(case.target.name):
        return _decide_absolute(case)
    if not (case.named or _OFFSETS.search(case.target.name)):
        return NoFit("it is not named a table of relative positions")
    if len(case.target.shape) == 3:
        return _decide_maps(case)
    return _decide_rows(case)


def _decide_absolute(case: Case) -> Fit | NoFit:
    """``(heads, h * w)``, for which timm's function takes square windows alone."""
    old, new = case.source.shape, case.target.shape
    if len(old) != 2 or len(new) != 2 or old[0] != new[0]:
        return NoFit("another number of heads", near=True)
    if case.settings or any(isqrt(shape[1]) ** 2 != shape[1] for shape in (old, new)):
        return NoFit("the window is not square, and timm resamples square ones alone", near=True)
    sides = [(isqrt(shape[1]),) * 2 for shape in (old, new)]
    reason = f"{_told(*sides)}; both are assumed to be square"
    return Fit(reason, {"kind": "absolute"}, reference=_LEVIT)


def _decide_maps(case: Case) -> Fit | NoFit:
    """``(heads, 2h-1, 2w-1)``, where the shape says everything."""
    old, new = case.source.shape, case.target.shape
    if len(old) != 3 or old[0] != new[0]:
        return NoFit("another number of heads", near=True)
    if not all(side % 2 for side in (*old[1:], *new[1:])):
        return NoFit("a window has an odd number of offsets", near=True)
    windows = [((shape[1] + 1) // 2, (shape[2] + 1) // 2) for shape in (old, new)]
    return Fit(_told(*windows), {"kind": "map", "old": windows[0], "new": windows[1]})


def _decide_rows(case: Case) -> Fit | NoFit:
    """``(offsets, heads)``, with or without the rows of a class token on both sides."""
    old, new = case.source.shape, case.target.shape
    if len(old) != 2 or len(new) != 2 or old[1] != new[1]:
        return NoFit("another number of heads", near=True)
    for extra in (0, _CLASS_ROWS):
        windows = [_window(case, side, shape[0] - extra) for side, shape in _sides(old, new)]
        if None not in windows:
            first, second = cast("list[Window]", windows)
            kept = f", {extra} rows of the class token kept" if extra else ""
            assumed = [side for side in ("old", "new") if side not in case.settings]
            square = f"; {' and '.join(assumed)} assumed to be square" if assumed else ""
            settings: Settings = {"kind": "rows", "old": first, "new": second}
            return Fit(f"{_told(first, second)}{kept}{square}", settings)
    return NoFit(
        f"{old[0]} and {new[0]} rows are not both offsets in square windows; say old=ROWSxCOLUMNS "
        "and new=ROWSxCOLUMNS",
        near=True,
    )


def _sides(old: Sequence[int], new: Sequence[int]) -> tuple[tuple[str, Sequence[int]], ...]:
    return (("old", old), ("new", new))


def _window(case: Case, side: str, offsets: int) -> Window | None:
    """The window that has so many offsets: the one that was given, or a square one."""
    root = isqrt(max(offsets, 0))
    window = cast("Window", case.settings.get(side, ((root + 1) // 2,) * 2))
    return window if prod(2 * length - 1 for length in window) == offsets else None


def _told(old: Sequence[int], new: Sequence[int]) -> str:
    return f"{grid_text(old)} window to {grid_text(new)}"


def compute(
    source: torch.Tensor,
    shape: tuple[int, ...],
    settings: Settings,
    initial: torch.Tensor | None,
) -> torch.Tensor:
    """A table of the old window to one of ``shape``, by timm's functions."""
    from timm.layers import resize_rel_pos_bias_table, resize_rel_pos_bias_table_levit

    from surgery.transfers.resize.indexing import ListsIndexAsTuples

    result: torch.Tensor
    if settings["kind"] == "absolute":
        result = resize_rel_pos_bias_table_levit(source.T, shape[::-1]).T
        return result
    old, new = cast("Window", settings["old"]), cast("Window", settings["new"])
    # Timm's versions before `old_window_size` know square windows alone.
    oblong = {"old_window_size": old} if old[0] != old[1] and len(shape) == 2 else {}
    with ListsIndexAsTuples():
        result = resize_rel_pos_bias_table(source, new, shape, **oblong)
    return result


_LEVIT = "timm.layers.resize_rel_pos_bias_table_levit"

RESIZER = Resizer(
    "rel-pos",
    "timm.layers.resize_rel_pos_bias_table",
    decide,
    compute,
    options={"old": grid, "new": grid},
)
