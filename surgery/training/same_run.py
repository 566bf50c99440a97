"""Whether a file is of this model, this optimizer and this run; nothing is changed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import StateRefused
from surgery.training.fitting import judge
from surgery.training.kept import Kept, KeptStates
from surgery.training.remembered import kind_of
from surgery.training.training_file import OptimizerRecord, TrainingFile
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    import torch
    from torch import nn


def check_parts(run: TrainingFile, **given: object) -> None:
    """Raise StateRefused for a part that only the file or only the caller has."""
    for name, part in given.items():
        saved = getattr(run, name)
        if saved is not None and part is None:
            raise StateRefused(f"the saved run had a {name}= and none is given")
        if saved is None and part is not None:
            raise StateRefused(f"a {name}= is given and the saved run had none")


def check_schedule(run: TrainingFile, schedule: Any) -> None:
    """Raise StateRefused for another class's schedule, or a state of another form."""
    own, saved = schedule.state_dict(), run.schedule
    if run.schedule_kind not in (None, kind_of(schedule)):
        raise StateRefused(
            f"the file is another schedule's: {run.schedule_kind} there and "
            f"{kind_of(schedule)} here"
        )
    if not isinstance(saved, Mapping):
        raise StateRefused("the file's schedule is damaged: expected a mapping")
    if saved.get("schedule") == own.get("schedule") and not _alike(saved, own):
        raise StateRefused("the file's schedule is damaged: it is not of the form of this one's")


def _alike(saved: Any, own: Any) -> bool:
    """Mappings of the same words, numbers for numbers; what is None may be anything."""
    if isinstance(own, Mapping):
        if not isinstance(saved, Mapping):
            return False
        words = {key for key in (*own, *saved) if isinstance(key, str)}
        return all(key in saved and key in own and _alike(saved[key], own[key]) for key in words)
    if isinstance(own, list) and isinstance(saved, list) and len(own) == len(saved):
        return all(map(_alike, saved, own))
    if own is None or saved is None:
        return True
    return isinstance(saved, int | float if isinstance(own, int | float) else type(own))


def check_model(run: TrainingFile, model: nn.Module) -> None:
    """Raise StateRefused, with the first names that differ, for another model's file."""
    weights, others = state_by_name(model)
    own = {name: _told(tensor) for name, tensor in weights.items()}
    saved = {name: _told(tensor) for name, tensor in run.weights.items()}
    own |= dict.fromkeys(others, "no tensor")
    saved |= dict.fromkeys(run.others, "no tensor")
    if own != saved:
        raise StateRefused(f"the file is another model's: {_first_difference(saved, own)}")


def _told(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first_difference(saved: Mapping[str, str], own: Mapping[str, str]) -> str:
    missing = [name for name in own if name not in saved]
    extra = [name for name in saved if name not in own]
    if missing or extra:
        parts = (_some(missing, "the file lacks"), _some(extra, "the model lacks"))
        return "; ".join(filter(None, parts))
    name = next(name for name in own if own[name] != saved[name])
    return f"{name} is {saved[name]} there and {own[name]} here"


def _some(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"{what} {names[0]}{more}" if names else ""


def check_optimizer(
    record: OptimizerRecord, optimizer: torch.optim.Optimizer, model: nn.Module
) -> list[list[str]]:
    """The names of the optimizer's parameters, group by group, which are the file's too.

    Raises StateRefused for another class, other groups or another order within them.
    """
    if record.kind != kind_of(optimizer):
        raise StateRefused(
            f"the file is another optimizer's: {record.kind.rpartition(':')[2]} there and "
            f"{type(optimizer).__name__} here"
        )
    own = names_in(model, optimizer)
    saved = [group["param_names"] for group in record.groups]
    if own != saved:
        raise StateRefused(
            f"the file's groups are others: {_first_regrouped(saved, own)}; "
            "load_optimizer_state carries a state to other groups"
        )
    for saved_group, group in zip(record.groups, optimizer.param_groups, strict=True):
        _check_settings(settings_of(saved_group), settings_of(group))
    return own


def _check_settings(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    # More may be saved: some optimizers count their steps there, from the first step on.
    missing = own.keys() - saved.keys() - {"initial_lr"}
    if missing:
        raise StateRefused(f"the file's groups lack the setting {min(missing)}")
    lr: Any = saved.get("lr")
    rate = float(lr) if _is_number(lr) else math.nan
    if not 0 <= rate < math.inf:
        raise StateRefused(f"the file's lr is {lr!r}, expected a finite number from 0")


def _is_number(value: Any) -> bool:
    import torch

    tensor = isinstance(value, torch.Tensor) and value.numel() == 1
    return tensor or (isinstance(value, int | float) and not isinstance(value, bool))


def _first_regrouped(saved: Sequence[Sequence[str]], own: Sequence[Sequence[str]]) -> str:
    there, here = _places(saved), _places(own)
    for name in (*here, *there):
        if there.get(name) != here.get(name):
            return (
                f"{name} is {_place_told(there.get(name))} there and "
                f"{_place_told(here.get(name))} here"
            )
    return f"{len(saved)} there and {len(own)} here"


def _places(groups: Iterable[Iterable[str]]) -> dict[str, tuple[int, int]]:
    return {
        name: (index, position)
        for index, names in enumerate(groups)
        for position, name in enumerate(names)
    }


def _place_told(place: tuple[int, int] | None) -> str:
    return f"number {place[1]} of group {place[0]}" if place else "in no group"


@dataclass(frozen=True, slots=True)
class Restored:
    """What one parameter is to have. ``kept`` is what its optimizer keeps for it."""

    parameter: nn.Parameter
    group: int
    entry: Mapping[str, Any]
    kept: Kept | None


def fitting_entries(
    record: OptimizerRecord, optimizer: torch.optim.Optimizer, names: Sequence[Sequence[str]]
) -> list[Restored]:
    """The file's states, under the file's settings; StateRefused for one of another shape."""
    groups = [
        {**group, **settings_of(saved)}
        for group, saved in zip(optimizer.param_groups, record.groups, strict=True)
    ]
    keeps, found = KeptStates(type(optimizer), groups), []
    for index, (group, own) in enumerate(zip(groups, names, strict=True)):
        for name, parameter in zip(own, group["params"], strict=True):
            entry, kept = record.entries.get(name, {}), keeps.of(parameter, index)
            verdict = judge(entry, kept, tuple(parameter.shape), (record.kind, record.kind))
            if kept is not None and verdict.fate == "reshaped":
                raise StateRefused(f"the file's state does not fit {name}: {verdict.reason}")
            found.append(Restored(parameter, index, entry, kept))
    return found


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without its parameters: rates, counters, whatever else it has."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def state_by_name(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict by unwrapped name: tensors, and what modules keep beside them."""
    import torch

    state = model.state_dict()
    clean = unwrap_names(state)
    tensors = {clean[k]: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    others = {clean[k]: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
    return tensors, others


def names_in(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The unwrapped names of the optimizer's parameters, group by group."""
    clean = unwrap_names(name for name, _ in model.named_parameters())
    known = {id(parameter): clean[name] for name, parameter in model.named_parameters()}
    groups = [[known.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    lost = sum(name is None for group in groups for name in group)
    if lost:
        raise StateRefused(
            f"{lost} of the optimizer's parameters are none of the model's: build it after the "
            "last change of the model"
        )
    return [[name for name in group if name is not None] for group in groups]
