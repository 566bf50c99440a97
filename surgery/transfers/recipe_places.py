"""A recipe that one strided view of a file shows: nothing is read, and bytes go file to file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from surgery.checkpoint.places import Place, contiguous_strides
from surgery.checkpoint.writing.values import Values
from surgery.matching.recipes.recipe import Recipe, View
from surgery.matching.recipes.strides import located, merged, restrided


def place_of(recipe: Recipe, values: Mapping[str, Values]) -> Place | None:
    """One place that shows all that the recipe gives; None where no strides can say it."""
    if not isinstance(recipe, View) or isinstance(recipe.base, Recipe):
        return None
    place = values[recipe.source.name]
    if not isinstance(place, Place):
        return None
    axes, offset = recipe.axes, recipe.offset
    own = contiguous_strides(place.shape)
    steps = zip(place.shape, place.strides, own, strict=True)
    if not all(size == 1 or stride == step for size, stride, step in steps):
        found = located(place.shape, axes, offset)
        if found is None:
            return None
        box, owner = found
        axes = restrided(place.shape, axes, owner, place.strides)
        offset = sum(start * step for (start, _), step in zip(box, place.strides, strict=True))
    if any(len(axis) > 1 for axis in map(merged, axes)):
        return None
    strides = tuple(axis[0][1] if axis else 1 for axis in axes)
    return replace(place, shape=recipe.shape, strides=strides, offset=place.offset + offset)
