"""Names for a state that kept none: which parameter of a model each position was.

An optimizer's ``state_dict`` counts its parameters through, group after group, and a model says
in which order it lists them. For one group that is all there is to know. Several groups are a
choice that somebody made: what is of one shape must then be of one group, or else two
parameters of that shape could be exchanged without anyone noticing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from surgery.errors import StateRefused

Shape = tuple[int, ...]

_THE_WAY = "load it into the optimizer that made it, and pass that one with model=, which is exact"


def names_by_position(
    groups: Sequence[Sequence[Hashable]], entries: Mapping[Any, Mapping[str, Any]], model: nn.Module
) -> tuple[list[str], tuple[str, ...]]:
    """(a name for every position, in the order of ``groups``; notes of what was taken on trust).

    Raises StateRefused.
    """
    own = _parameters(model, sum(map(len, groups)))
    shapes = [[_shape(entries.get(position, {})) for position in group] for group in groups]
    names = list(own)
    if len(groups) > 1:
        homes = _homes(shapes)
        names.sort(key=lambda name: homes.get(own[name], len(groups)))
    saved = [shape for group in shapes for shape in group]
    for position, (shape, name) in enumerate(zip(saved, names, strict=True)):
        if shape not in (None, own[name]):
            raise StateRefused(
                f"the saved state has shape {shape} at position {position}, where the model has "
                f"{name} {own[name]}: another model, or another order; {_THE_WAY}"
            )
    repeated = sum(count for count in Counter(own.values()).values() if count > 1)
    trusted = (
        f"the state has no names: taken in the model's order, which {repeated} parameters of "
        "repeated shapes cannot contradict"
    )
    return names, (trusted,) if repeated else ()


def _parameters(model: nn.Module, count: int) -> dict[str, Shape]:
    """The model's parameters, or those that train: whichever are as many as were saved."""
    every = dict(model.named_parameters())
    trained = {name: p for name, p in every.items() if p.requires_grad}
    for parameters in (every, trained):
        if len(parameters) == count:
            return {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    raise StateRefused(
        f"the saved state is of {count} parameters without names, the model has {len(every)} "
        f"({len(trained)} that train): this is not the model that made it"
    )


def _shape(entry: Mapping[str, Any]) -> Shape | None:
    """The one shape of all the entry's tensors, not counting scalars."""
    shapes = {tuple(v.shape) for v in entry.values() if isinstance(v, torch.Tensor) and v.dim()}
    return shapes.pop() if len(shapes) == 1 else None


def _homes(shapes: Sequence[Sequence[Shape | None]]) -> dict[Shape, int]:
    """The one group that has each shape."""
    homes: dict[Shape, int] = {}
    for index, group in enumerate(shapes):
        for shape in group:
            if shape is None or homes.setdefault(shape, index) != index:
                found = f"the shape {shape} in two of them" if shape else "parameters without state"
                raise StateRefused(
                    f"the saved state has several groups, no names, and {found}: nothing says "
                    f"which is which; {_THE_WAY}"
                )
    return homes
