"""Values as tensors: what recipes give, by torch's own operations, and what files hold, whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from surgery.checkpoint.places import Place
from surgery.checkpoint.tensors.casting import cast, widened
from surgery.checkpoint.tensors.reading import flat_pieces, read_tensor
from surgery.checkpoint.writing.values import Computed, Values
from surgery.matching.recipes.arithmetic import LowRank, Product, Scaled, Sum
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros


def make_tensor(
    recipe: Recipe, tensor: Callable[[str], torch.Tensor], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """What the recipe gives; ``tensor`` gives a source's values by its name.

    The dtype is that of the sources, and ``dtype`` where there are only zeros. The result may
    share memory with a source, and gradients reach the sources.
    """
    named = [tensor(spec.name) for spec in recipe.sources[:1]]
    return _made(recipe, tensor, named[0] if named else torch.empty(0, dtype=dtype))


def made_of(recipe: Recipe, values: Mapping[str, Values], dtype: str) -> torch.Tensor:
    """The same of values in files or in memory, all of it at once, computed in ``dtype``."""
    with torch.no_grad():
        return make_tensor(recipe, lambda name: whole(values[name], dtype), getattr(torch, dtype))


def whole(values: Values, dtype: str) -> torch.Tensor:
    """All values in one tensor of ``dtype``; one in memory that has it is given as it is."""
    if isinstance(values, Place):
        with values.region.source.opened() as reader:
            tensor = read_tensor(values, reader)
    elif isinstance(values, Computed):
        empty = torch.empty(0, dtype=getattr(torch, values.dtype))
        pieces = [*values.pieces()] or [empty]
        tensor = (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(values.shape)
    else:
        tensor = values
    return cast(tensor, dtype)[0]


def flat_pieces_in(values: Values, dtype: str) -> Iterator[torch.Tensor]:
    """All values in row-major order, as flat tensors of ``dtype`` on the CPU, piece by piece."""
    return (cast(piece, dtype)[0] for piece in flat_pieces(values))


def equal_in(one: Values, other: Values, dtype: str) -> bool:
    """Whether two tensors hold equal values in ``dtype``; NaN equals NaN."""
    ours, theirs = (_comparable(whole(each, dtype)) for each in (one, other))
    return bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    inexact = tensor.is_floating_point() or tensor.is_complex()
    return (widened(tensor) if inexact else tensor).detach().cpu()


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
