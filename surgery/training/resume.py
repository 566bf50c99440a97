"""A run into one safe file, and on from there as if it had never stopped."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from surgery.errors import StateRefused
from surgery.private_torch import metadata_of, set_metadata
from surgery.training.generators import generator_states, restore_generators
from surgery.training.learning_rates import is_rate
from surgery.training.optimizer_state import (
    OptimizerState,
    kind_of,
    live_state,
    names_in_model,
    settings_of,
)
from surgery.training.parameter_states import misfit, parameter_slots, write_states
from surgery.training.schedule import Schedule
from surgery.training.stages import Stages
from surgery.training.training_file import (
    TrainingFile,
    TrainingState,
    read_training_file,
    write_training_file,
)
from surgery.tuning.rules import rules_text
from surgery.wording import first_difference
from surgery.wrappers import unwrap_names


def save_training(
    path: str | os.PathLike[str],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None = None,
    stages: Stages | None = None,
    rules: str | Path | Sequence[str] | None = None,
    epoch: int | None = None,
    step: int | None = None,
    extra: Any = None,
) -> Path:
    """Write all that a run needs to go on into one ``.safetensors`` file; returns its path.

    Model and optimizer by parameter name, wrappers looked through; the schedule (one of
    :func:`surgery.build_schedule` or of torch's own), the stages,
    the text of the rules, and torch's random states (not Python's nor NumPy's, and not the
    place in a data loader). ``extra`` is yours: numbers, text, lists, tuples, dicts and tensors.
    The file appears whole or not at all, holds nothing that could be executed, and any reader
    of safetensors sees its tensors as ``model.*`` and ``optimizer.*``.

    Raises :class:`~surgery.errors.StateRefused` for what does not belong together or is no
    plain value, and :class:`~surgery.errors.CheckpointError`.
    """
    state = model.state_dict()
    clean = unwrap_names(state)
    run = TrainingFile(
        model={clean[name]: value for name, value in state.items()},
        optimizer=_state_of(optimizer, model),
        schedule=schedule.state_dict() if schedule is not None else None,
        stages=stages.state_dict() if stages is not None else None,
        random=generator_states(),
        epoch=epoch,
        step=step,
        extra=extra,
        rules=None if rules is None else rules_text(rules)[0],
        schedule_kind=kind_of(schedule) if schedule is not None else None,
    )
    return write_training_file(path, run)


def resume_training(
    path: str | os.PathLike[str],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None = None,
    stages: Stages | None = None,
) -> TrainingState:
    """Put everything back as :func:`save_training` found it; the run goes on bit for bit.

    Build model, optimizer, schedule and stages as for a new run, by the same rules. The file's
    learning rates and other hyper-parameters stand, for they are where the schedule had come to;
    to go on by other rules, see :func:`surgery.load_optimizer_state`.

    Raises :class:`~surgery.errors.StateRefused`, with the first name that differs and with
    nothing changed, for the file of another model, optimizer or run.
    """
    run = read_training_file(path)
    weights = _as_named_in(model, run.model)
    saved, own = run.optimizer, _state_of(optimizer, model)
    _check_parts(run, own, {"schedule=": schedule, "stages=": stages})
    saved_groups = [_as_of_today(optimizer, group) for group in saved.groups]
    _check_groups(saved_groups, own.groups)
    pairs = list(zip(optimizer.param_groups, saved_groups, strict=True))
    groups = [{**group, **settings_of(old)} for group, old in pairs]
    slots = parameter_slots(type(optimizer), groups, own.parameters)
    for slot in slots:
        if problem := misfit(saved.entries.get(slot.name, {}), slot.kept):
            raise StateRefused(f"the file's state does not fit {slot.name}: {problem}")
    if stages is not None:
        stages.check_state(run.stages)
    if schedule is not None:
        # Before the others: it may refuse, and the file's learning rates stand.
        schedule.load_state_dict(run.schedule)
    model.load_state_dict(weights)
    for group, old in pairs:
        group.update(settings_of(old))
    write_states(optimizer, slots, saved.entries)
    if stages is not None:
        stages.load_state_dict(run.stages)
    restore_generators(run.random)
    return TrainingState(run.epoch, run.step, run.extra, run.rules)


def _state_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> OptimizerState:
    """By the model's own names; StateRefused for parameters that are none of its."""
    names = names_in_model(optimizer, model)
    if lost := names.count(None):
        raise StateRefused(
            f"{lost} of the optimizer's parameters are none of the model's: build it after the "
            "last change of the model"
        )
    return live_state(optimizer, names)


def _check_parts(run: TrainingFile, own: OptimizerState, given: Mapping[str, object]) -> None:
    """Raise StateRefused for another optimizer, and for what only the file or the caller has."""
    saved = {"schedule=": run.schedule, "stages=": run.stages}
    there, here = (
        {name: "given" for name, part in parts.items() if part is not None}
        for parts in (saved, given)
    )
    there["the optimizer"], here["the optimizer"] = str(run.optimizer.kind), str(own.kind)
    schedule = given["schedule="]
    # Our own schedules compare their lines: files outlive a class's place.
    if (
        run.schedule_kind
        and isinstance(schedule, LRScheduler)
        and not isinstance(schedule, Schedule)
    ):
        there["the schedule"], here["the schedule"] = run.schedule_kind, kind_of(schedule)
    if difference := first_difference(there, here):
        raise StateRefused(f"the file is another run's: {difference}")


def _as_named_in(model: nn.Module, saved: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """The file's values under the model's names, with its module versions: the same code saved.

    Raises StateRefused, with the first name that differs, for another model's values.
    """
    state = model.state_dict()
    clean = unwrap_names(state)
    own = {clean[name]: _described(value) for name, value in state.items()}
    there = {name: _described(value) for name, value in saved.items()}
    if difference := first_difference(there, own):
        raise StateRefused(f"the file is another model's: {difference}")
    named = OrderedDict((name, saved[clean[name]]) for name in state)
    set_metadata(named, metadata_of(state))
    return named


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return "no tensor"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _as_of_today(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """A saved group with the settings that came later, as the optimizer's class fills them in."""
    copied = object.__new__(type(optimizer))
    copied.__dict__ |= optimizer.__dict__
    filled = {**group, "params": []}
    copied.__setstate__({"state": {}, "param_groups": [filled]})
    del filled["params"]
    return filled


def _check_groups(saved: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> None:
    """Raise StateRefused for other groups, another order within them, or damaged settings."""
    there, here = _places(saved), _places(own)
    if difference := first_difference(there, here, "in no group"):
        raise StateRefused(
            f"the file's groups are others: {difference}; "
            "load_optimizer_state carries a state to other groups"
        )
    for saved_group, group in zip(saved, own, strict=True):
        # More may be saved: some optimizers count their steps there, from the first step on.
        missing = group.keys() - saved_group.keys() - {"initial_lr"}
        if missing:
            raise StateRefused(f"the file's groups lack the setting {min(missing)}")
        lr = saved_group.get("lr")
        lr = lr.item() if isinstance(lr, torch.Tensor) and lr.numel() == 1 else lr
        if not is_rate(lr) and (lr is not None or group["lr"] is not None):
            raise StateRefused(f"the file's lr is {lr!r}, expected a finite number from 0")


def _places(groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    places = {
        name: f"number {position} of group {index}"
        for index, group in enumerate(groups)
        for position, name in enumerate(group["param_names"])
    }
    return {**places, "the last group": f"group {len(groups) - 1}"}
