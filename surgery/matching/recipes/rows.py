"""Recipes one below the other: rows in the shape of a target, and tensors along a new axis."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.matching.recipes.recipe import Recipe, join
from surgery.matching.recipes.strides import Shape
from surgery.wording import shape_text


def stack(parts: Sequence[Recipe]) -> Recipe:
    """The parts along a new first axis."""
    return join([part.reshape((1, *part.shape)) for part in parts])


def join_rows(parts: Sequence[Recipe], shape: Shape) -> Recipe:
    """The rows of all parts in a target's shape; what a row holds may be shaped otherwise.

    Raises ValueError where they do not fill it.
    """
    if len(parts) == 1:
        return parts[0].reshape(shape)
    rows = [part.shape[0] if part.shape else 1 for part in parts]
    made = join([p.reshape((n, *shape[1:])) for p, n in zip(parts, rows, strict=True)])
    if made.shape != shape:
        raise ValueError(f"{sum(rows)} rows do not fill {shape_text(shape)}")
    return made
