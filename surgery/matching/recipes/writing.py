"""A recipe -> the shortest text that :mod:`surgery.matching.recipes.text` reads as the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

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
    if isinstance(view.base, Recipe):
        text, made = _term(view.base), view.base
    else:
        text, made = view.base.name, View.of(view.base)
    grid = view.grid
    if grid:
        found, steps = _steps(text, made, view, grid)
        if steps == view:
            return found
    axes = (" ".join(f"{n}x{t}" for n, t in axis) or "1x1" for axis in view.axes)
    return f"strided({', '.join((text, str(view.offset), *axes))})"


def _steps(text: str, made: Recipe, view: View, grid: Grid) -> tuple[str, Recipe]:
    shape, trivial = made.shape, [*range(len(grid.order))]
    rows = len(grid.shape) - len(shape) + 1
    if (
        not grid.sliced
        and view.shape == shape
        and grid.shape[rows:] == shape[1:]
        and [*grid.order[rows:]] == trivial[rows:]
        and prod(grid.shape[:rows]) == shape[0]
    ):
        order = ", ".join(map(str, grid.order[:rows]))
        return (
            f"reorder({text}, {_shape(grid.shape[:rows])}, {order})",
            made.reorder(grid.shape[:rows], grid.order[:rows]),
        )
    if grid.shape != made.shape:
        text, made = f"reshape({text}, {_shape(grid.shape)})", made.reshape(grid.shape)
    if grid.sliced:
        plain = isinstance(view.base, TensorSpec) and grid.shape == view.base.shape
        text = f"{text}[{_slices(grid)}]" if plain else f"slice({text}, {_slices(grid)})"
        made = made.box(grid.box)
    if [*grid.order] != trivial:
        text = f"permute({text}, {', '.join(map(str, grid.order))})"
        made = made.permute(grid.order)
    if made.shape != view.shape:
        text, made = f"reshape({text}, {_shape(view.shape)})", made.reshape(view.shape)
    return text, made


def _slices(grid: Grid) -> str:
    pairs = zip(grid.box, grid.shape, strict=True)
    return ", ".join(_part(*pair, size) for pair, size in pairs)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
