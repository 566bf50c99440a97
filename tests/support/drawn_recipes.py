"""Recipes drawn by hypothesis, each with the values that torch makes of the same steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from surgery.matching.recipes.arithmetic import LowRank, Product, Scaled, Sum
from surgery.matching.recipes.recipe import Recipe, View, Zeros, join, stack
from surgery.specs import TensorSpec


@dataclass(frozen=True)
class Drawn:
    """A recipe, its values, and the values of its sources by name."""

    recipe: Recipe
    values: torch.Tensor
    state: dict[str, torch.Tensor]


def splits(size: int):
    """Shapes of ``size`` elements."""
    if size == 0:
        return st.sampled_from([(0,), (0, 2), (3, 0)])
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    first = st.sampled_from(divisors)
    return st.one_of(
        st.just((size,)),
        first.map(lambda n: (n, size // n)),
        first.flatmap(
            lambda n: st.sampled_from([m for m in divisors if (size // n) % m == 0]).map(
                lambda m: (n, m, size // n // m)
            )
        ),
    )


@st.composite
def boxes(draw, shape, empty=False):
    box = []
    for size in shape:
        start = draw(st.integers(0, size if empty else max(size - 1, 0)))
        box.append((start, draw(st.integers(start if empty else min(start + 1, size), size))))
    return tuple(box)


@st.composite
def sources(draw, state, shape=None):
    """A new source of four axes at most."""
    if shape is None:
        shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 0]), max_size=4)))
    name = f"t{len(state)}.weight"
    first = 1 + sum(value.numel() for value in state.values())
    state[name] = torch.arange(first, first + math.prod(shape), dtype=torch.float64).reshape(shape)
    return View.of(TensorSpec(name, shape, "float64")), state[name]


@st.composite
def moved(draw, state, depth, computed):
    recipe, values = draw(sources(state))
    for _ in range(draw(st.integers(0, 6))):
        shape = recipe.shape
        kinds = ["reshape", "permute", "slice", *(["grow"] if depth else [])]
        kind = draw(st.sampled_from(kinds))
        if kind == "reshape":
            new = draw(splits(recipe.numel))
            recipe, values = recipe.reshape(new), values.reshape(new)
        elif kind == "permute":
            order = draw(st.permutations(range(len(shape))))
            recipe, values = recipe.permute(order), values.permute(order)
        elif kind == "slice" and 0 not in shape:
            for axis, (start, stop) in enumerate(draw(boxes(shape))):
                recipe = recipe.slice(axis, start, stop)
                values = values.narrow(axis, start, stop - start)
        elif kind == "grow":
            recipe, values = draw(grown(recipe, values, state, depth - 1, computed))
    return recipe, values


@st.composite
def grown(draw, recipe, values, state, depth, computed):
    """The recipe with others around it."""
    shape = recipe.shape
    how = ["join", "stack", "zeros", *(["scale", "add", "product", "low"] if computed else [])]
    kind = draw(st.sampled_from(how))
    if kind == "scale":
        return Scaled((recipe,), 0.5), values * 0.5
    if kind == "low" and len(shape) == 2:
        down, other = draw(sources(state, (shape[1], draw(st.integers(1, 3)))))
        return LowRank((recipe, down), 2.0), 2.0 * (values @ other)
    if kind in ("add", "product"):
        narrow = tuple(1 if draw(st.booleans()) else size for size in shape)
        more, other = draw(sources(state, narrow))
        if kind == "add":
            return Sum((recipe, more)), values + other
        return Product((more, recipe)), other * values
    if kind == "stack":
        more, other = draw(sources(state, shape))
        return stack([recipe, more]), torch.stack([values, other])
    if kind == "low" or not shape:
        return recipe, values
    axis = draw(st.integers(0, len(shape) - 1))
    size = (*shape[:axis], draw(st.integers(1, 3)), *shape[axis + 1 :])
    if kind == "zeros":
        more, other = Zeros(size), torch.zeros(size, dtype=torch.float64)
    else:
        more, other = draw(sources(state, size))
        if depth and draw(st.booleans()):
            more, other = draw(grown(more, other, state, depth - 1, computed))
            if [*more.shape[:axis], *more.shape[axis + 1 :]] != [*shape[:axis], *shape[axis + 1 :]]:
                return recipe, values
    return join([recipe, more], axis), torch.cat([values, other], axis)


@st.composite
def recipes(draw, computed=True):
    """Any recipe, of moves alone or computed too."""
    state: dict[str, torch.Tensor] = {}
    recipe, values = draw(moved(state, 2, computed))
    return Drawn(recipe, values, state)
