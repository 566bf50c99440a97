"""A recipe and its sources' values -> the target's values: as views where views can do it.

On places in a file nothing is read: what one strided view shows is a place again, and what is
joined or computed is made when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from surgery.checkpoint.writing.values import Computed, Values, is_tensor
from surgery.matching.recipes.recipe import Recipe
from surgery.specs import TensorSpec
from surgery.transfers.recipe_places import place_of

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
        from surgery.transfers.recipe_tensors import whole_tensor

        return whole_tensor(recipe, values, dtype)
    if place := place_of(recipe, values):
        return place

    def pieces() -> Iterator[torch.Tensor]:
        from surgery.transfers.recipe_tensors import flat_pieces_of

        return flat_pieces_of(recipe, values, dtype)

    return Computed(recipe.shape, dtype, pieces)
