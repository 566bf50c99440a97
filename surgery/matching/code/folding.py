"""Numbers of elements -> recipes: which rows, axes and orders a person would write down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surgery.matching.code.origins import OPEN, ZERO
from surgery.matching.code.program import Parameter
from surgery.matching.recipes.recipe import Recipe, Zeros, join, strided
from surgery.specs import TensorSpec

#: A recipe of more pieces than this is no recipe that a person would write.
_MOST_PIECES = 256
#: So many pieces may be one row each: experts, or layers, on top of each other.
_FEW = 128

Elements = np.ndarray
#: Sizes and strides that one axis runs through, the outermost first.
Factors = list[tuple[int, int]]


class NoRecipe(Exception):
    """An order of elements that no recipe says."""


def recipe_of(
    origins: Elements, parameters: Sequence[Parameter], specs: Sequence[TensorSpec]
) -> Recipe:
    """How a tensor is made whose elements come from these elements of the source.

    Raises :class:`NoRecipe` where some come from nowhere, or in no order that can be said.
    """
    if (origins == OPEN).any():
        raise NoRecipe("some elements have no origin")
    starts = np.array([x.first for x in parameters])
    folder = _Folder(starts, specs)
    recipe = folder.fold(origins)
    if recipe is None:
        raise NoRecipe("its elements come in an order that no recipe says")
    return recipe


class _Folder:
    def __init__(self, starts: Elements, specs: Sequence[TensorSpec]) -> None:
        self.starts, self.specs = starts, specs

    def holders(self, origins: Elements) -> Elements:
        """The place of the source tensor that each element is in; -1 for zeros."""
        found = np.searchsorted(self.starts, origins, side="right") - 1
        return np.where(origins == ZERO, -1, found)

    def fold(self, origins: Elements) -> Recipe | None:
        """One view, or pieces along an axis, or rows that take turns; None where it is nothing."""
        holders = self.holders(origins)
        first = int(holders.flat[0])
        if (holders == first).all():
            if first < 0:
                return Zeros(origins.shape)
            found = self._view(origins, first)
            if found is not None:
                return found
        return self._pieces(origins, holders) or self._in_turns(origins, holders)

    def _view(self, origins: Elements, holder: int) -> Recipe | None:
        base = int(origins.flat[0])
        rebuilt, axes = np.array(base), []
        for axis in range(origins.ndim):
            steps = np.moveaxis(origins, axis, 0).reshape(origins.shape[axis], -1)[:, 0] - base
            factors = _factors(steps)
            if factors is None:
                return None
            axes.append(factors)
            rebuilt = rebuilt[..., None] + steps
        if not (rebuilt == origins).all():
            return None
        try:
            return strided(self.specs[holder], axes, base - int(self.starts[holder]))
        except ValueError:  # runs backwards
            return None

    def _pieces(self, origins: Elements, holders: Elements) -> Recipe | None:
        """Cut along an axis where the source tensor changes, or the step from row to row."""
        for axis in range(origins.ndim):
            moved, held = (np.moveaxis(x, axis, 0) for x in (origins, holders))
            rows, held = (x.reshape(len(x), -1) for x in (moved, held))
            cuts = _cuts(rows, held)
            if not 0 < len(cuts) < min(_MOST_PIECES, max(len(rows) // 2, _FEW)):
                continue
            parts = [self.fold(x) for x in np.split(origins, cuts, axis)]
            if all(x is not None for x in parts):
                return join([x for x in parts if x is not None], axis)
        return None

    def _in_turns(self, origins: Elements, holders: Elements) -> Recipe | None:
        """Rows of several tensors, or of parts of one, that come in turns: a head at a time."""
        rows = len(origins) if origins.ndim else 0
        for period in range(2, rows // 2 + 1):
            if rows % period:
                continue
            shape = (rows // period, period, *origins.shape[1:])
            turns = origins.reshape(shape)
            held = holders.reshape(shape)
            if not (held == held[:1]).all():
                continue
            flat = turns.reshape(shape[0], -1)
            if (
                not (np.diff(flat, axis=0) == np.diff(flat[:, :1], axis=0)).all()
                and (held == held.flat[0]).all()
            ):
                continue
            cuts = _cuts(
                np.moveaxis(turns, 1, 0).reshape(period, -1),
                np.moveaxis(held, 1, 0).reshape(period, -1),
            )
            if len(cuts) >= min(_MOST_PIECES, period):
                continue
            parts = [self._whole(x) for x in np.split(turns, cuts, 1)]
            if all(x is not None for x in parts):
                made = join([x for x in parts if x is not None], 1)
                return made.reshape(origins.shape)
        return None

    def _whole(self, origins: Elements) -> Recipe | None:
        holder = int(self.holders(origins[:1]).flat[0])
        if holder < 0:
            return Zeros(origins.shape) if (origins == ZERO).all() else None
        return self._view(origins, holder)


def _factors(steps: Elements) -> Factors | None:
    """Steps from the first element as nested progressions: 0, 1, 8, 9 is 2 by 8 of 2 by 1."""
    size = len(steps)
    if size == 1:
        return [(1, 1)]
    step = int(steps[1])
    if step < 0:
        return None
    breaks = np.nonzero(steps != np.arange(size) * step)[0]
    run = int(breaks[0]) if len(breaks) else size
    if size % run:
        return None
    outer = steps[::run]
    if not (steps.reshape(-1, run) == outer[:, None] + np.arange(run) * step).all():
        return None
    if run == size:
        return [(size, step)]
    rest = _factors(outer)
    return None if rest is None else [*rest, (run, step)]


def _cuts(rows: Elements, holders: Elements) -> list[int]:
    """Where the tensors change that a row is of, or the step from one row to the next."""
    changed = (holders[1:] != holders[:-1]).any(1)
    if changed.any():
        return [int(at) + 1 for at in np.nonzero(changed)[0]]
    steps = np.diff(rows[:, 0])
    if not len(steps):
        return []
    usual = int(np.median(steps))
    return [int(at) + 1 for at in np.nonzero(steps != usual)[0]]
