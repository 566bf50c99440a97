"""A recipe and its sources' values -> the target's values: as views where views can do it.

On places in a file nothing is read: what one strided view shows is a place again, so that bytes go
file to file, and what is joined or computed is made when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.checkpoint.places import Place
from surgery.checkpoint.writing.values import Computed, Values, is_tensor
from surgery.matching.recipes.recipe import Joined, Recipe, View, composed
from surgery.matching.recipes.strides import merged
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch


def values_of(recipe: Recipe, values: Mapping[str, Values]) -> Values:
    """The values of a target; ``values`` are the sources' by name.

    What only moves has the sources' dtype; what is computed has float64 where a source has, else
    float32. A tensor where a source is one, else a place where a view shows all of it.
    """
    held = [values[spec.name] for spec in recipe.sources]
    if recipe.is_copy:
        return held[0]
    dtypes = [TensorSpec.of("", each).dtype for each in held]
    dtype = dtypes[0] if recipe.moves else "float64" if "float64" in dtypes else "float32"
    if any(map(is_tensor, held)):
        from surgery.transfers.recipe_tensors import made_of

        return made_of(recipe, values, dtype)
    return _stored(recipe, values, dtype)


def _stored(recipe: Recipe, values: Mapping[str, Values], dtype: str) -> Values:
    """The values of a recipe of which no source is in memory: parts below each other come one
    after the other.
    """
    if place := _place_of(recipe, values):
        return place
    is_pile = isinstance(recipe, Joined) and recipe.axis == 0
    parts = [_stored(part, values, dtype) for part in recipe.parts] if is_pile else []

    def pieces() -> Iterator[torch.Tensor]:
        from surgery.transfers.recipe_tensors import flat_pieces_in, made_of

        if is_pile:
            for part in parts:
                yield from flat_pieces_in(part, dtype)
        else:
            yield made_of(recipe, values, dtype).contiguous().reshape(-1)

    return Computed(recipe.shape, dtype, pieces)


def _place_of(recipe: Recipe, values: Mapping[str, Values]) -> Place | None:
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
