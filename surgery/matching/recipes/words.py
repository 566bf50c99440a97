"""What a recipe does, in a few words for a report."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.matching.recipes.arithmetic import Computed
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros

#: The words in the order in which they are said.
_WORDS = (
    "transpose",
    "permute",
    "reorder rows",
    "slice rows",
    "slice",
    "concatenate rows",
    "concatenate",
    "stack",
    "zeros",
    "scale",
    "add",
    "product",
    "low-rank product",
)


def in_words(recipe: Recipe) -> str:
    """``copy``, ``reshape``, ``transpose``, ``slice rows``, ``concatenate rows`` and so on;
    ``transpose, slice rows`` where it is more than one.
    """
    found = {*_words(recipe)}
    return ", ".join(filter(found.__contains__, _WORDS)) or (
        "copy" if recipe.is_copy else "reshape"
    )


def _words(recipe: Recipe) -> Iterator[str]:
    for part in recipe.parts:
        yield from _words(part)
    match recipe:
        case View():
            yield from _words_of_view(recipe)
        case Joined(axis=axis):
            stacked = {part.shape[axis] for part in recipe.parts} == {1} and axis == 0
            one = next(iter(recipe.views), None)
            stacked = stacked and one is not None and one.source.shape == recipe.shape[1:]
            yield "stack" if stacked else "concatenate" if axis else "concatenate rows"
        case Zeros():
            yield "zeros"
        case Computed(function=function):
            yield "low-rank product" if function == "low_rank" else function


def _words_of_view(view: View) -> Iterator[str]:
    shape, grid = view.base.shape, view.grid
    if grid is None:
        yield "slice"
        return
    sliced = [
        at
        for at, (pair, size) in enumerate(zip(grid.box, grid.shape, strict=True))
        if pair != (0, size)
    ]
    moving = [at for at in grid.order if grid.box[at] != (0, 1)]
    if moving != sorted(moving):
        rows = len(grid.shape) - len(shape) + 1
        kept = grid.shape[rows:] == shape[1:] and [*grid.order[rows:]] == [
            *range(rows, len(grid.order))
        ]
        matrix = len(grid.shape) == 2
        yield "transpose" if matrix else "reorder rows" if kept else "permute"
    if sliced:
        window = view.window
        yield "slice rows" if window and sliced == [window[0]] else "slice"
