"""Recipes as JSON values: any names, and no text that has to be read."""

from __future__ import annotations

from typing import Any

from surgery.matching.recipes.arithmetic import LowRank, Scaled, Sum
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
        case Scaled(factor=factor):
            return {"kind": "scale", "parts": parts, "factor": factor}
        case LowRank(factor=factor):
            return {"kind": "low_rank", "parts": parts, "factor": factor}
    return {"kind": "add" if isinstance(recipe, Sum) else "product", "parts": parts}
