"""A recipe that one strided view of a file shows: nothing is read, and bytes go file to file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from surgery.checkpoint.places import Place
from surgery.checkpoint.writing.values import Values
from surgery.matching.recipes.recipe import Recipe, View, composed
from surgery.matching.recipes.strides import merged


def place_of(recipe: Recipe, values: Mapping[str, Values]) -> Place | None:
    """One place that shows all that the recipe gives; None where no strides can say it."""
    if not isinstance(recipe, View) or isinstance(recipe.base, Recipe):
        return None
    place = values[recipe.source.name]
    if not isinstance(place, Place):
        return None
    steps = zip(place.shape, place.strides, strict=True)
    stored = View(recipe.source, tuple(merged([step]) for step in steps))
    shown = recipe if stored.is_copy else composed(stored, recipe.axes, recipe.offset)
    if not isinstance(shown, View) or any(len(axis) > 1 for axis in shown.axes):
        return None
    strides = tuple(axis[0][1] if axis else 1 for axis in shown.axes)
    return replace(place, shape=recipe.shape, strides=strides, offset=place.offset + shown.offset)
