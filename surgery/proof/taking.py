"""One step of a plan -> which elements of the checkpoint make which of a network's tensor.

What a proof knows of the steps of a plan is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import gcd

import torch

from surgery.matching.recipes.recipe import Recipe, View, Zeros
from surgery.specs import TensorSpec
from surgery.transfers.recipe_tensors import make_tensor
from surgery.transfers.step import Step


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a source, of ``total``. ``axis`` is 0, or -1 of a matrix that is stored (in, out)."""

    source: str
    axis: int
    start: int
    stop: int
    total: int

    @property
    def whole(self) -> bool:
        return (self.start, self.stop) == (0, self.total)


@dataclass(frozen=True, slots=True)
class Taking:
    """How a tensor is made of the checkpoint's, exactly: no value is computed.

    ``sources`` are names in the checkpoint, one for each of its tensors. ``rows`` are what is
    joined or separated, empty where a source is simply copied; ``height`` divides all of it,
    and is 0 where one source is taken whole. Gradients find their way back
    through ``make``.
    """

    target: TensorSpec
    sources: tuple[str, ...]
    rows: tuple[Rows, ...]
    height: int
    make: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]

    def values(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Its values, of those of the checkpoint's tensors."""
        made = self.make(given)
        becomes_complex = self.target.dtype.startswith("complex") and not made.is_complex()
        return made.to(torch.complex128) if becomes_complex else made


def taking(step: Step, one: Mapping[str, str]) -> Taking | None:
    """None where the tensor keeps its own values, or computes others. ``one`` gives one name to
    every tensor of the checkpoint that has several.
    """

    def named(name: str) -> str:
        return one.get(name, name)

    recipe = step.recipe
    if recipe is None or not is_exact(step):
        return None
    if recipe.is_copy:
        source = named(recipe.sources[0].name)
        return Taking(step.target, (source,), (), 0, lambda values: values[source])
    taken = tuple(_rows(view, named) for view in recipe.views)
    whole = len(taken) == 1 and taken[0].whole and not _zero_rows(recipe.parts)
    ends = [end for each in taken for end in (each.start, each.stop)]
    ends += _zero_rows(recipe.parts)
    return Taking(
        step.target,
        tuple(dict.fromkeys(each.source for each in taken)),
        taken,
        0 if whole else gcd(*ends),
        lambda values: make_tensor(recipe, lambda name: values[named(name)]),
    )


def _rows(view: View, named: Callable[[str], str]) -> Rows:
    shape = view.source.shape
    axis, start, stop = view.window or (0, 0, shape[0] if shape else 1)
    total = shape[axis] if shape else 1
    return Rows(named(view.source.name), -1 if axis else 0, start, stop, total)


def _zero_rows(parts: Iterable[Recipe]) -> list[int]:
    return [part.shape[0] for part in parts if isinstance(part, Zeros) and part.shape]


def is_exact(step: Step) -> bool:
    """Whether the tensor is made of the checkpoint's with no value computed."""
    return step.recipe is not None and step.method is None and step.recipe.moves


def resizer_of(step: Step) -> str | None:
    """What computes other values for it, of another shape."""
    return step.method.name if step.method else None


def is_left(step: Step, expected: set[str]) -> bool:
    """Whether nobody misses its values: an index, or what the checkpoint alone has a use for."""
    if step.recipe is None:
        return step.recomputed
    return step.recipe.is_copy and step.recipe.sources[0].name in expected
