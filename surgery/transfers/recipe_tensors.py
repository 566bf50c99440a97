"""The values of a recipe on tensors, by torch's own operations: gradients reach the sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from surgery.checkpoint.places import Place
from surgery.checkpoint.tensors.reading import flat_pieces, read_tensor
from surgery.checkpoint.writing.values import Computed, Values
from surgery.matching.recipes.arithmetic import LowRank, Product, Scaled, Sum
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros
from surgery.transfers.recipe_places import place_of


def make_tensor(
    recipe: Recipe, tensor: Callable[[str], torch.Tensor], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """What the recipe gives; ``tensor`` gives a source's values by its name.

    The dtype is that of the sources, and ``dtype`` where there are only zeros. The result may
    share memory with a source.
    """
    named = [tensor(spec.name) for spec in recipe.sources[:1]]
    return _made(recipe, tensor, named[0] if named else torch.empty(0, dtype=dtype))


def whole_tensor(
    recipe: Recipe, values: Mapping[str, Values], dtype: str | None = None
) -> torch.Tensor:
    """The same on values in files or in memory, all of it at once, computed in ``dtype``."""
    wanted = getattr(torch, dtype) if dtype else None
    return make_tensor(recipe, lambda name: _tensor(values[name]).to(wanted))


def flat_pieces_of(
    recipe: Recipe, values: Mapping[str, Values], dtype: str
) -> Iterator[torch.Tensor]:
    """The values in row-major order, a piece at a time where they lie so."""
    wanted = getattr(torch, dtype)
    if place := place_of(recipe, values):
        yield from flat_pieces(place)
    elif isinstance(recipe, Joined) and recipe.axis == 0:
        for part in recipe.parts:
            yield from flat_pieces_of(part, values, dtype)
    elif isinstance(recipe, Zeros):
        yield torch.zeros(recipe.numel, dtype=wanted)
    else:
        with torch.no_grad():
            made = make_tensor(recipe, lambda name: _tensor(values[name]).to(wanted), wanted)
            yield made.contiguous().reshape(-1)


def _tensor(values: Values) -> torch.Tensor:
    if isinstance(values, Place):
        with values.region.source.opened() as reader:
            return read_tensor(values, reader)
    if isinstance(values, Computed):
        pieces = [*values.pieces()]
        return torch.cat(pieces).reshape(values.shape)
    return values


def _made(
    recipe: Recipe, tensor: Callable[[str], torch.Tensor], like: torch.Tensor
) -> torch.Tensor:
    parts = [_made(part, tensor, like) for part in recipe.parts]
    match recipe:
        case Zeros(size=size):
            return like.new_zeros(size)
        case View():
            return _viewed(recipe, parts[0] if parts else tensor(recipe.source.name))
        case Joined(axis=axis):
            return torch.cat(parts, axis)
        case Scaled(factor=factor):
            return parts[0] * factor
        case LowRank(factor=factor):
            return factor * (parts[0] @ parts[1])
        case Sum():
            return sum(parts[1:], start=parts[0])
        case Product():
            return math.prod(parts[1:], start=parts[0])
    raise TypeError(f"no recipe: {recipe!r}")


def _viewed(view: View, values: torch.Tensor) -> torch.Tensor:
    if view.is_copy:
        return values
    if not view.numel:
        return values.reshape(-1)[:0].reshape(view.shape)
    grid = view.grid
    if grid is None:
        factors = [factor for axis in view.axes for factor in axis]
        sizes, steps = [n for n, _ in factors], [t for _, t in factors]
        values = values.contiguous()  # though perhaps a part of a larger storage
        first = values.storage_offset() + view.offset
        return values.as_strided(sizes, steps, first).reshape(view.shape)
    values = values.reshape(grid.shape)
    for axis, (start, stop) in enumerate(grid.box):
        values = values.narrow(axis, start, stop - start)
    return values.permute(grid.order).reshape(view.shape)
