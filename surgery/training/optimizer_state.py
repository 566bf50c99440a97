"""The state of an optimizer by parameter name, of a live one or of a state dict.

An optimizer's ``state_dict`` counts its parameters through, group after group. Where it kept no
names, a model says in which order it lists them. For one group that is all there is to know.
Several groups are a choice that somebody made: what is of one shape must then be of one group, or
else two parameters of that shape could be exchanged without anyone noticing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from surgery.errors import StateRefused
from surgery.wrappers import unwrap_names

Shape = tuple[int, ...]

_THE_WAY = "load it into the optimizer that made it, and pass that one with model=, which is exact"

#: What some optimizers (timm's Lamb, Adan) count once a group instead of once a parameter.
_COUNTERS = ("step",)


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """``groups`` in order, with ``param_names`` in the place of the parameters; names unwrapped.

    ``entries`` are name to key to value, of parameters that have a state. ``kind`` is the
    optimizer's class, None where nobody wrote it down. ``parameters`` are those of a live
    optimizer, whose values are its own, not copies. ``notes`` are what was taken on trust to find
    the names.
    """

    kind: str | None
    groups: tuple[Mapping[str, Any], ...]
    entries: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def counters(self) -> dict[str, dict[str, Any]]:
        """By name, what the parameter's group counts for it."""
        return {
            name: {key: group[key] for key in _COUNTERS if key in group}
            for group in self.groups
            for name in group["param_names"]
        }


def kind_of(value: object) -> str:
    """The class, as ``package.module:Class``."""
    return f"{type(value).__module__}:{type(value).__qualname__}"


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without its parameters: learning rate, counters, whatever else it has."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def names_in_model(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str | None]:
    """The names that the model has for the optimizer's parameters; None for what it has not."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    clean = unwrap_names(names.values())
    places = (names.get(id(p)) for group in optimizer.param_groups for p in group["params"])
    return [None if name is None else clean[name] for name in places]


def known_names(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> list[str | None]:
    """The names that the groups carry, else those of the model; None for unknown ones."""
    if (names := _carried_names(optimizer.param_groups)) is not None:
        return [*_unwrapped(names)]
    if model is not None:
        return names_in_model(optimizer, model)
    return [None for group in optimizer.param_groups for _ in group["params"]]


def live_state(optimizer: torch.optim.Optimizer, names: Sequence[str | None]) -> OptimizerState:
    """The state of an optimizer whose parameters have these names; what has none is numbered."""
    if not any(names):
        raise _nameless("the optimizer")
    groups = optimizer.param_groups
    every = [name or f"(parameter {index})" for index, name in enumerate(names)]
    parameters = zip(every, (p for group in groups for p in group["params"]), strict=True)
    return OptimizerState(
        kind_of(optimizer), *_by_name(groups, optimizer.state, every), parameters=dict(parameters)
    )


def saved_state(state_dict: Mapping[str, Any], model: nn.Module | None) -> OptimizerState:
    """A ``state_dict()``, by the names that it carries or those of the model that made it."""
    groups, state = state_dict["param_groups"], state_dict["state"]
    listing = isinstance(groups, list) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups
    )
    if not (isinstance(state, Mapping) and listing):
        raise StateRefused("the saved state is damaged: expected groups that list their parameters")
    positions = [position for group in groups for position in group["params"]]
    entries = {key: entry for key, entry in state.items() if isinstance(entry, Mapping) and entry}
    if not entries:
        return OptimizerState(None, (), {})
    names = _carried_names(groups)
    notes: tuple[str, ...] = ()
    if names is None and all(isinstance(position, str) for position in positions):
        names = positions  # torch.distributed.checkpoint writes names in their place
    if names is None:
        if model is None:
            raise _nameless("the saved state")
        names, notes = _names_by_position([group["params"] for group in groups], entries, model)
    return OptimizerState(None, *_by_name(groups, entries, _unwrapped(names)), notes=notes)


def _by_name(
    groups: Sequence[Mapping[str, Any]], entries: Mapping[Any, Any], names: Sequence[str]
) -> tuple[tuple[Mapping[str, Any], ...], dict[str, Mapping[str, Any]]]:
    """Groups and entries with names for what the groups list: parameters, or their positions."""
    left = iter(names)
    named = tuple(
        {**settings_of(group), "param_names": [next(left) for _ in group["params"]]}
        for group in groups
    )
    keys = (key for group in groups for key in group["params"])
    found = {name: entries.get(key) for name, key in zip(names, keys, strict=True)}
    return named, {name: entry for name, entry in found.items() if entry}


def _carried_names(groups: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """None unless every group names all of its parameters."""
    names: list[str] = []
    for group in groups:
        own = group.get("param_names")
        if not isinstance(own, list | tuple) or len(own) != len(group["params"]):
            return None
        names += map(str, own)
    return names


def _unwrapped(names: Sequence[str]) -> list[str]:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StateRefused(f"the state has two parameters called {twice}")
    clean = unwrap_names(names)
    return [clean[name] for name in names]


def _nameless(what: str) -> StateRefused:
    return StateRefused(
        f"{what} keeps no names: give model=, the model that made it (optimizers of "
        "build_optimizer, and of torch from named_parameters(), keep them)"
    )


def _names_by_position(
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
