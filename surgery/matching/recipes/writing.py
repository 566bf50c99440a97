"""A recipe -> the shortest text that :mod:`surgery.matching.recipes.text` reads as the same, and
JSON values, which hold any names and have not to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from surgery.matching.recipes.arithmetic import Computed
from surgery.matching.recipes.recipe import Joined, Recipe, View, Zeros, row_count, squeezed
from surgery.matching.recipes.strides import Grid
from surgery.matching.recipes.text import TURNED
from surgery.specs import TensorSpec


def sides_of(recipe: Recipe) -> tuple[str, bool]:
    """The left side of a line, and whether its target is better said to be stored (in, out)."""
    text = text_of(recipe)
    if len(recipe.shape) == 2 and "(" in text:
        turned = text_of(recipe.permute((1, 0)))
        if "(" not in turned:
            return turned, True
    return text, False


def text_of(recipe: Recipe) -> str:
    """The left side of a line that makes the recipe; names are taken to be plain."""
    if not (isinstance(recipe, Joined) and recipe.axis == 0):
        return _term(recipe, _is_alone)
    zeros = {part.size[0] for part in recipe.inner if isinstance(part, Zeros)}
    shared = len(zeros) == 1 and 0 not in zeros
    terms = (
        "0" if isinstance(part, Zeros) and shared else _term(part, _is_rows)
        for part in recipe.inner
    )
    # All of a tensor is its name, where a '+' tells that it is no part of one.
    return " + ".join(t if t == "0[:]" else t.removesuffix("[:]") for t in terms)


def _is_exactly(made: Recipe, recipe: Recipe) -> bool:
    return made == recipe


def _is_rows(made: Recipe, recipe: Recipe) -> bool:
    """Whether it is the same where rows come together."""
    same = row_count(made.shape) == row_count(recipe.shape) and made.numel == recipe.numel
    return same and made.reshape(recipe.shape) == recipe


def _is_alone(made: Recipe, recipe: Recipe) -> bool:
    """Whether it is the same as the whole of a line."""
    same = squeezed(made.shape) == squeezed(recipe.shape)
    return (same and made.reshape(recipe.shape) == recipe) or _is_rows(made, recipe)


def _term(recipe: Recipe, is_right: Callable[[Recipe, Recipe], bool] = _is_exactly) -> str:
    """The text of a recipe in its own shape, or in one that is right in its place."""
    match recipe:
        case View():
            for text, made in _simple(recipe):
                if is_right(made, recipe):
                    return text.removesuffix("[:]") if is_right is _is_exactly else text
            return _explicit(recipe)
        case Zeros(size=size):
            return f"zeros({_shape(size)})"
    parts = ", ".join(map(_term, recipe.parts))
    match recipe:
        case Joined(axis=0):
            return " + ".join(map(_term, recipe.parts))
        case Joined(axis=axis):
            return f"concat({parts}; {axis})"
        case Computed(function=function, numbers=numbers):
            return f"{function}({', '.join((parts, *map(repr, numbers)))})"
    raise TypeError(f"no recipe: {recipe!r}")


def _simple(view: View) -> Iterator[tuple[str, Recipe]]:
    """Names with ``^T`` and slices that may be meant."""
    if isinstance(view.base, Recipe):
        return
    name, whole, grid = view.base.name, View.of(view.base), view.grid
    yield f"{name}[:]", whole
    if len(whole.shape) == 2:
        yield name + TURNED, whole.permute((1, 0))
    window = view.window
    if window and view.base.shape:
        at, start, stop = window
        turned = at == 1 and len(whole.shape) == 2
        if at == 0 or turned:
            part = whole.permute((1, 0)) if turned else whole
            text = name + TURNED * turned
            yield f"{text}[{_part(start, stop, part.shape[0])}]", part.rows(start, stop)
    if grid and grid.sliced and grid.shape == whole.shape:
        yield f"{name}[{_slices(grid)}]", whole.box(grid.box)


def _part(start: int, stop: int, size: int) -> str:
    count = stop - start
    if count == size:
        return ":"
    if size % count == 0 and start % count == 0:
        return f"{start // count + 1}/{size // count}"
    return f"{start}:{stop}"


def _explicit(view: View) -> str:
    """A view step by step, each a function; those that no steps make, by their strides."""
    base, grid = view.base, view.grid
    text = _term(base) if isinstance(base, Recipe) else base.name
    if grid is None:
        axes = (" ".join(f"{n}x{t}" for n, t in axis) or "1x1" for axis in view.axes)
        return f"strided({', '.join((text, str(view.offset), *axes))})"
    rows = 0 if grid.sliced or view.shape != base.shape else grid.rows_of(base.shape)
    if rows:
        order = ", ".join(map(str, grid.order[:rows]))
        return f"reorder({text}, {_shape(grid.shape[:rows])}, {order})"
    if grid.shape != base.shape:
        text = f"reshape({text}, {_shape(grid.shape)})"
    if grid.sliced:
        plain = isinstance(base, TensorSpec) and grid.shape == base.shape
        text = f"{text}[{_slices(grid)}]" if plain else f"slice({text}, {_slices(grid)})"
    if [*grid.order] != sorted(grid.order):
        text = f"permute({text}, {', '.join(map(str, grid.order))})"
    sizes = [stop - start for start, stop in grid.box]
    if tuple(sizes[at] for at in grid.order) != view.shape:
        text = f"reshape({text}, {_shape(view.shape)})"
    return text


def _slices(grid: Grid) -> str:
    pairs = zip(grid.box, grid.shape, strict=True)
    return ", ".join(_part(*pair, size) for pair, size in pairs)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
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
