"""What an optimizer remembers, by parameter name: from a live one, a state dict or a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.checkpoint import read_optimizer_states
from surgery.errors import StateRefused
from surgery.training.positions import names_by_position, order_notes
from surgery.training.training_file import is_training_file, read_training_file
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    import torch
    from torch import nn

    Saved = torch.optim.Optimizer | Mapping[str, Any] | str | os.PathLike[str]

#: What some optimizers (timm's Lamb, Adan) count once a group instead of once a parameter.
COUNTERS = ("step",)


@dataclass(frozen=True, slots=True)
class Remembered:
    """``entries`` are name to key to value, of parameters that have a state; names unwrapped.

    ``kind`` is the optimizer's class, None where nobody wrote it down; ``counters`` are what
    each parameter's group counts. ``parameters`` are those of a live optimizer, whose values
    are its own, not copies. ``orphans`` are keys of a state that no parameter has,
    ``notes`` what was taken on trust to tell the names.
    """

    kind: str | None
    entries: Mapping[str, Mapping[str, Any]]
    counters: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)
    orphans: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def kind_of(optimizer: object) -> str:
    """The class, as ``package.module:Class``."""
    return f"{type(optimizer).__module__}:{type(optimizer).__qualname__}"


def class_of(optimizer: torch.optim.Optimizer) -> str | type[torch.optim.Optimizer]:
    """The class as rules would name it: by torch's own name where it has one."""
    import torch

    kind = type(optimizer)
    return kind.__name__ if getattr(torch.optim, kind.__name__, None) is kind else kind


def remember(saved: Saved, model: nn.Module | None) -> Remembered:
    """Whatever holds a state, by name; ``model`` is the one that made it, for lack of names.

    Raises StateRefused where the names cannot be told, CheckpointError for unreadable files.
    """
    import torch

    if isinstance(saved, torch.optim.Optimizer):
        return _of_optimizer(saved, model)
    if isinstance(saved, Mapping):
        return _of_state_dict(_only_state(saved), model)
    if isinstance(saved, str | os.PathLike):
        return _of_file(saved, model)
    raise StateRefused(
        f"expected an optimizer, its state_dict() or a file, found {type(saved).__name__}"
    )


def parameter_names(
    groups: Sequence[Mapping[str, Any]], model: nn.Module | None
) -> list[str | None]:
    """The name of each parameter of a live optimizer, in its order; None for an unknown one.

    The names that the groups carry, else those that ``model`` has for the same parameters.
    """
    if (names := _carried_names(groups)) is not None:
        return list(names)
    parameters = model.named_parameters() if model is not None else ()
    known = {id(parameter): name for name, parameter in parameters}
    return [known.get(id(parameter)) for group in groups for parameter in group["params"]]


def _carried_names(groups: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """None unless every group names all of its parameters."""
    names: list[str] = []
    for group in groups:
        own = group.get("param_names")
        if not isinstance(own, list | tuple) or len(own) != len(group["params"]):
            return None
        names += map(str, own)
    return names


def _of_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> Remembered:
    groups = optimizer.param_groups
    names = parameter_names(groups, model)
    if not any(names):
        raise _nameless("the optimizer")
    parameters = [parameter for group in groups for parameter in group["params"]]
    told = [name or f"(parameter {index})" for index, name in enumerate(names)]
    entries = [optimizer.state.get(parameter, {}) for parameter in parameters]
    clean = _unwrapped(told)
    return Remembered(
        kind_of(optimizer),
        {name: entry for name, entry in zip(clean, entries, strict=True) if entry},
        _counters(clean, groups),
        dict(zip(clean, parameters, strict=True)),
    )


def _of_state_dict(state_dict: Mapping[str, Any], model: nn.Module | None) -> Remembered:
    groups, state = _checked(state_dict)
    positions = [position for group in groups for position in group["params"]]
    entries = {key: entry for key, entry in state.items() if isinstance(entry, Mapping) and entry}
    if not entries:
        return Remembered(None, {}, {})
    names = _carried_names(groups)
    notes: tuple[str, ...] = ()
    if names is None and all(isinstance(position, str) for position in positions):
        names = positions  # torch.distributed.checkpoint writes names in their place
    if names is None:
        if model is None:
            raise _nameless("the saved state")
        names = names_by_position([group["params"] for group in groups], entries, model)
        notes = order_notes(names, model)
    clean = _unwrapped(names)
    return Remembered(
        None,
        {
            name: entries[position]
            for name, position in zip(clean, positions, strict=True)
            if position in entries
        },
        _counters(clean, groups),
        orphans=tuple(str(key) for key in state if key not in set(positions)),
        notes=notes,
    )


def _of_file(path: str | os.PathLike[str], model: nn.Module | None) -> Remembered:
    if is_training_file(path):
        run = read_training_file(path).optimizer
        names = [name for group in run.groups for name in group["param_names"]]
        entries = {name: entry for name, entry in run.entries.items() if entry}
        return Remembered(run.kind, entries, _counters(names, run.named_groups))
    return _of_state_dict(_one_of(read_optimizer_states(path), os.fspath(path)), model)


def _only_state(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping itself, or the one optimizer state among its values."""
    if _is_state(saved):
        return saved
    found = {}
    for key, value in saved.items():
        several = enumerate(value) if isinstance(value, list) else [("", value)]
        found.update({f"{key}.{i}".rstrip("."): one for i, one in several if _is_state(one)})
    return _one_of(found, "the mapping")


def _one_of(found: Mapping[str, Mapping[str, Any]], where: str) -> Mapping[str, Any]:
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise StateRefused(f"{where}: holds no optimizer state (a mapping of state, param_groups)")
    raise StateRefused(
        f"{where}: holds {len(found)} optimizer states, {', '.join(found)}: load the file and "
        "pass the one that is meant"
    )


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def _checked(
    state_dict: Mapping[str, Any],
) -> tuple[Sequence[Mapping[str, Any]], Mapping[Any, Any]]:
    groups, state = state_dict["param_groups"], state_dict["state"]
    sound = isinstance(state, Mapping) and isinstance(groups, list)
    if not sound or not all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups
    ):
        raise StateRefused("the saved state is damaged: expected groups that list their parameters")
    return groups, state


def _counters(
    names: Sequence[str], groups: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    counted = [
        {key: group[key] for key in COUNTERS if key in group}
        for group in groups
        for _ in group["params"]
    ]
    return {name: counters for name, counters in zip(names, counted, strict=True) if counters}


def _unwrapped(names: Sequence[str]) -> list[str]:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StateRefused(f"the saved state has two parameters called {twice}")
    clean = unwrap_names(names)
    return [clean[name] for name in names]


def _nameless(what: str) -> StateRefused:
    return StateRefused(
        f"{what} keeps no names: give model=, the model that made it (optimizers of "
        "build_optimizer, and of torch from named_parameters(), keep them)"
    )
