"""Recipes as JSON values, and back: any names, and no text that has to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.matching.recipes.arithmetic import COMPUTED, Computed, computed
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros, join, strided
from surgery.specs import TensorSpec


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """JSON values that :func:`recipe_from_dict` turns back into an equal recipe."""
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


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """The inverse of :func:`recipe_to_dict`. Other data raise KeyError, TypeError or ValueError."""
    if data["kind"] == "zeros":
        return Zeros(tuple(map(int, data["shape"])))
    if data["kind"] == "view":
        own = "source" in data
        base = TensorSpec.from_row(data["source"]) if own else recipe_from_dict(data["of"])
        return strided(base, data["axes"], int(data["offset"]))
    parts = tuple(map(recipe_from_dict, data["parts"]))
    if data["kind"] == "joined" and parts:
        return join(parts, int(data["axis"]))
    if data["kind"] not in COMPUTED:
        raise ValueError(f"no recipe of {len(parts)} parts is of the kind {data['kind']!r}")
    return computed(data["kind"], parts, [float(data["factor"])] if "factor" in data else [])
