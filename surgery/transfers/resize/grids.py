"""Places that lie on a grid, and others beside them: how many are which, and the grid's sides.

The shape of a flat tensor says neither. A resizer knows how many others there may be; that the grid
is square is assumed, and said, unless the settings ``old`` and ``new`` tell its sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isqrt, prod
from typing import TypeAlias, cast

from surgery.transfers.resize.resizer import Case, grid_text

Grid: TypeAlias = tuple[int, int]
#: How many places are others, and the grid that the rest of them lie on.
Reading: TypeAlias = tuple[int, Grid]


def read_grids(
    case: Case,
    places: tuple[Sequence[int], Sequence[int]],
    others: tuple[Sequence[int], Sequence[int]],
    *,
    offsets: bool = False,
) -> tuple[Reading, Reading, str] | str:
    """The one reading of the source's places and of the target's, and what is assumed in it; or
    why there is not one.

    ``places`` are their number, or those along two axes. Some of the source's ``others`` may be
    dropped. With ``offsets`` a place is an offset between two cells of the grid, of which h x w
    cells have (2h-1)(2w-1).
    """
    found: list[list[Reading]] = []
    assumed = []
    for side, sizes, counts in zip(("old", "new"), places, others, strict=True):
        given = case.settings.get(side)
        readings: list[Reading] = []
        for count in counts:
            total = prod(sizes) - count
            lengths = sizes if len(sizes) == 2 else (isqrt(max(total, 0)),) * 2
            if offsets:
                lengths = [(length + 1) // 2 for length in lengths]
            grid = cast("Grid", given or tuple(lengths))
            if total == prod(2 * length - 1 if offsets else length for length in grid) > 0:
                readings.append((count, grid))
        if not readings:
            what = grid_text(cast("Grid", given)) if given else "square"
            return (
                f"{prod(sizes)} {side} places are no {what} grid beside {_or(counts)} others; "
                f"say {side}=ROWSxCOLUMNS"
            )
        found.append(readings)
        assumed += [] if given or len(sizes) == 2 else [side]
    pairs = [(old, new) for old in found[0] for new in found[1] if old[0] >= new[0]]
    pairs = [(old, new) for old, new in pairs if old[0] == new[0]] or pairs
    if len(pairs) != 1:
        old, new = (_or(f"{grid_text(grid)} beside {n}" for n, grid in each) for each in found)
        return f"ambiguous: {old} to {new} others; say how many"
    return *pairs[0], f"; {' and '.join(assumed)} assumed to be square" if assumed else ""


def _or(things: Iterable[object]) -> str:
    return " or ".join(map(str, things))
