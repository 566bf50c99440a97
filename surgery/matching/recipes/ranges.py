"""The ranges of elements that a recipe moves, in their order: what bytes a target needs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from surgery.matching.recipes import strides
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros
from surgery.specs import TensorSpec

#: A source or None for zeros, the first of its elements, and how many.
Run = tuple[TensorSpec | None, int, int]


def ranges(recipe: Recipe) -> Iterator[Run]:
    """The elements of the sources that it moves, in row-major order, as long as they run on.

    Raises ValueError where something is computed.
    """
    found: Run | None = None
    for source, first, count in _runs(recipe):
        if found and found[0] == source and (source is None or first == found[1] + found[2]):
            found = source, found[1], found[2] + count
            continue
        if found:
            yield found
        found = source, first, count
    if found:
        yield found


def _runs(recipe: Recipe) -> Iterator[Run]:
    match recipe:
        case Zeros():
            yield None, 0, recipe.numel
        case View(base=TensorSpec() as source):
            for first, count in strides.runs(recipe.axes, recipe.offset):
                yield source, first, count
        case View(base=Recipe() as base):
            below = _Runs(base)
            for first, count in strides.runs(recipe.axes, recipe.offset):
                yield from below.between(first, first + count)
        case Joined(axis=0):
            for part in recipe.inner:
                yield from ranges(part)
        case Joined(axis=axis):
            parts = [(_Runs(part), math.prod(part.shape[axis:])) for part in recipe.inner]
            for at in range(math.prod(recipe.shape[:axis])):
                for runs, size in parts:
                    yield from runs.between(at * size, (at + 1) * size)
        case _:
            raise ValueError("what is computed moves no bytes")


class _Runs:
    """The runs of a recipe, of which any stretch of its elements can be asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self._runs = [*ranges(recipe)]
        self._ends = [*accumulate(count for *_, count in self._runs)]

    def between(self, start: int, stop: int) -> Iterator[Run]:
        at = bisect_right(self._ends, start)
        while start < stop:
            source, first, count = self._runs[at]
            end = self._ends[at]
            taken = min(stop, end) - start
            yield source, 0 if source is None else first + start - (end - count), taken
            start, at = start + taken, at + 1
