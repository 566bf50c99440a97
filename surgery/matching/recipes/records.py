"""Recipes as JSON values: any names, and no text that has to be read."""

from __future__ import annotations

from typing import Any

from surgery.matching.recipes.arithmetic import Computed
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
    parts = [recipe_to_dict(part) for part in recipe.parts]
    match recipe:
        case Zeros(size=size):
            return {"kind": "zeros", "shape": list(size)}
        case View(axes=axes, offset=offset):
            base = {"of": parts[0]} if parts else {"source": recipe.source.to_row()}
            factors = [[list(factor) for factor in axis] for axis in axes]
            return {"kind": "view", **base, "axes": factors, "offset": offset}
        case Joined(axis=axis):
            return {"kind": "joined", "parts": parts, "axis": axis}
        case Computed(function=function, numbers=numbers):
            return {"kind": function, "parts": parts, **({"factor": numbers[0]} if numbers else {})}
    raise TypeError(f"no recipe: {recipe!r}")
