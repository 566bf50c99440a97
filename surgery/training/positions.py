"""Names for a state that kept none: which parameter of a model each position was.

An optimizer's ``state_dict`` counts its parameters through, group after group, and a model says
in which order it lists them. For one group that is all there is to know. Several groups are a
choice that somebody made: what is of one shape must then be of one group, or else two
parameters of that shape could be exchanged without anyone noticing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import StateRefused

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]

_THE_WAY = "load it into the optimizer that made it, and pass that one with model=, which is exact"


def names_by_position(
    groups: Sequence[Sequence[Hashable]], entries: Mapping[Any, Mapping[str, Any]], model: nn.Module
) -> list[str]:
    """A name for every position, in the order of ``groups``. Raises StateRefused."""
    count = sum(map(len, groups))
    own = _parameters(model, count)
    shapes = [[_shape(entries.get(position, {})) for position in group] for group in groups]
    if len(groups) == 1:
        return _in_order(shapes[0], own)
    return _by_shape(shapes, own)


def order_notes(names: Sequence[str], model: nn.Module) -> tuple[str, ...]:
    """What :func:`names_by_position` took on trust: the order of parameters of one shape."""
    parameters = dict(model.named_parameters())
    counts = Counter(tuple(parameters[name].shape) for name in names)
    alike = [count for count in counts.values() if count > 1]
    if not alike:
        return ()
    shapes = "one shape" if len(alike) == 1 else f"{len(alike)} shapes"
    return (
        "the state has no names: taken in the model's order, which "
        f"{sum(alike)} parameters of {shapes} cannot contradict",
    )


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
    """The shape that all of an entry's tensors have, scalars aside."""
    import torch

    shapes = {tuple(v.shape) for v in entry.values() if isinstance(v, torch.Tensor) and v.dim()}
    return shapes.pop() if len(shapes) == 1 else None


def _in_order(shapes: Sequence[Shape | None], own: Mapping[str, Shape]) -> list[str]:
    for position, (shape, (name, expected)) in enumerate(zip(shapes, own.items(), strict=True)):
        if shape is not None and shape != expected:
            raise StateRefused(
                f"the saved state has shape {shape} at position {position}, where the model has "
                f"{name} {expected}: another model, or another order; {_THE_WAY}"
            )
    return list(own)


def _by_shape(shapes: Sequence[Sequence[Shape | None]], own: Mapping[str, Shape]) -> list[str]:
    waiting: dict[Shape, list[str]] = defaultdict(list)
    for name, shape in own.items():
        waiting[shape].append(name)
    _refuse_ambiguous(shapes, waiting)
    order = {name: index for index, name in enumerate(own)}
    named = []
    for group in shapes:
        names = [waiting[shape].pop(0) for shape in group if shape is not None]
        if names != sorted(names, key=order.__getitem__):
            raise StateRefused(f"a saved group is not in the model's order; {_THE_WAY}")
        named += names
    return named


def _refuse_ambiguous(
    shapes: Sequence[Sequence[Shape | None]], own: Mapping[Shape, Sequence[str]]
) -> None:
    counts = [shape for group in shapes for shape in group]
    for shape in dict.fromkeys(counts):
        if shape is None:
            raise StateRefused(
                "the saved state has several groups, no names, and parameters without a state: "
                f"which is which cannot be told; {_THE_WAY}"
            )
        if counts.count(shape) != len(own.get(shape, ())):
            raise StateRefused(
                f"the saved state has {counts.count(shape)} parameters of shape {shape}, the "
                f"model has {len(own.get(shape, ()))}: this is not the model that made it"
            )
        if sum(shape in group for group in shapes) > 1:
            names = ", ".join(own[shape][:2])
            raise StateRefused(
                "the saved state has several groups, no names, and one shape in two of them: "
                f"{names} could be exchanged; {_THE_WAY}"
            )
