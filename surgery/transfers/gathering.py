"""Steps and their source -> the values of every target, in files, in memory or to be computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from surgery.checkpoint.pieces import run_alike, same_bytes
from surgery.checkpoint.places import Place
from surgery.checkpoint.weights import Weights
from surgery.checkpoint.writing.values import Values
from surgery.errors import ValueRefused
from surgery.transfers.recipe_values import values_of
from surgery.transfers.step import Step


def gathered(
    steps: Iterable[Step], source: Weights, initial: Mapping[str, Values]
) -> dict[str, Values]:
    """The values of all targets that the source gives; ``initial`` are targets' own."""
    taken: dict[str, Values] = {}
    for step in steps:
        if step.recipe is None:
            continue
        name = step.target.name
        places = {spec.name: source.place(spec.name) for spec in step.recipe.sources}
        taken[name] = values_of(step.recipe, places)
        if step.method is not None:
            from surgery.transfers.resize.computing import resized

            own = initial[name] if step.method.initial else None
            taken[name] = resized(step, step.method, taken[name], own)
    return taken


def refuse_torn_ties(
    ties: Iterable[Sequence[str]], steps: Mapping[str, Step], values: Mapping[str, Values]
) -> None:
    """Raise :class:`~surgery.errors.ValueRefused` where the source holds different values for the
    names of one tied parameter.
    """
    for names in ties:
        first, *others = [name for name in names if name in values] or [""]
        for name in others:
            if not _same_values(values[first], values[name], steps[name].target.dtype):
                sources = [spec.name for at in (first, name) for spec in steps[at].sources]
                raise ValueRefused(
                    f"{first} and {name} are one parameter in the target, but the source "
                    f"has two different tensors for them ({' and '.join(sources)}); drop one from "
                    "the source or leave it out by a line of the mapping (NAME -> (unused))"
                )


def _same_values(one: Values, other: Values, dtype: str) -> bool:
    """Whether they are equal in ``dtype``; NaN equals NaN. Equal bytes need no torch."""
    if one is other or not math.prod(one.shape):
        return True
    if isinstance(one, Place) and isinstance(other, Place) and run_alike(one, other):
        with one.region.source.opened() as ours, other.region.source.opened() as theirs:
            if same_bytes(one, other, (ours, theirs)):
                return True
    from surgery.transfers.recipe_tensors import equal_in

    return equal_in(one, other, dtype)
