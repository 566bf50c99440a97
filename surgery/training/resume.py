"""A run into one safe file, and on from there as if it had never stopped."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgery.training.generators import generator_states, restore_generators
from surgery.training.placing import placed
from surgery.training.remembered import kind_of
from surgery.training.same_run import (
    Restored,
    check_model,
    check_optimizer,
    check_parts,
    check_schedule,
    fitting_entries,
    names_in,
    settings_of,
    state_by_name,
)
from surgery.training.stages import Stages
from surgery.training.training_file import (
    OptimizerRecord,
    TrainingFile,
    read_training_file,
    write_training_file,
)
from surgery.tuning.rules import rules_text
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    import torch
    from torch import nn


class Stateful(Protocol):
    """A schedule: :func:`surgery.build_schedule`'s, or one of torch's own."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stood, in the words of who saved it. ``rules`` are the text of its rules."""

    epoch: int | None
    step: int | None
    extra: Any
    rules: str | None


def save_training(
    path: str | os.PathLike[str],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Stateful | None = None,
    stages: Stages | None = None,
    rules: str | Path | Sequence[str] | None = None,
    epoch: int | None = None,
    step: int | None = None,
    extra: Any = None,
) -> Path:
    """Write all that a run needs to go on into one ``.safetensors`` file; returns its path.

    Model and optimizer by parameter name, wrappers looked through; the schedule, the stages,
    the text of the rules, and torch's random states (not Python's nor NumPy's, and not the
    place in a data loader). ``extra`` is yours: numbers, text, lists, tuples, dicts and tensors.
    The file appears whole or not at all, holds nothing that could be executed, and any reader
    of safetensors sees its tensors as ``model.*`` and ``optimizer.*``.

    Raises :class:`~surgery.errors.StateRefused` for what does not belong together or is no
    plain value, and :class:`~surgery.errors.CheckpointError`.
    """
    run = TrainingFile(
        *state_by_name(model),
        optimizer=_recorded(optimizer, model),
        schedule=schedule.state_dict() if schedule is not None else None,
        stages=stages.state_dict() if stages is not None else None,
        rules=rules_text(rules)[0] if rules is not None else None,
        epoch=epoch,
        step=step,
        extra=extra,
        random=generator_states(),
        schedule_kind=kind_of(schedule) if schedule is not None else None,
    )
    return write_training_file(path, run)


def resume_training(
    path: str | os.PathLike[str],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Stateful | None = None,
    stages: Stages | None = None,
) -> TrainingState:
    """Put everything back as :func:`save_training` found it; the run goes on bit for bit.

    Build model, optimizer, schedule and stages as for a new run, by the same rules. The file's
    rates and other hyper-parameters stand, for they are where the schedule had come to; to go
    on by other rules, see :func:`surgery.load_optimizer_state`.

    Raises :class:`~surgery.errors.StateRefused`, with the first names that differ and with
    nothing changed, for the file of another model, optimizer or run.
    """
    run = read_training_file(path)
    check_parts(run, schedule=schedule, stages=stages)
    check_model(run, model)
    names = check_optimizer(run.optimizer, optimizer, model)
    entries = fitting_entries(run.optimizer, optimizer, names)
    if stages is not None:
        stages.check_state(run.stages)
    if schedule is not None:
        check_schedule(run, schedule)
        # Before the others: it may refuse, and the file's rates stand.
        schedule.load_state_dict(run.schedule)
    model.load_state_dict(_as_named_in(model, run))
    _restore_optimizer(run.optimizer, optimizer, entries)
    if stages is not None:
        stages.load_state_dict(run.stages)
    restore_generators(run.random)
    return TrainingState(run.epoch, run.step, run.extra, run.rules)


def _recorded(optimizer: torch.optim.Optimizer, model: nn.Module) -> OptimizerRecord:
    groups: list[dict[str, Any]] = []
    entries: dict[str, dict[str, Any]] = {}
    for group, names in zip(optimizer.param_groups, names_in(model, optimizer), strict=True):
        groups.append({**settings_of(group), "param_names": names})
        for name, parameter in zip(names, group["params"], strict=True):
            entries[name] = dict(optimizer.state.get(parameter, {}))
    return OptimizerRecord(kind_of(optimizer), tuple(groups), entries)


def _as_named_in(model: nn.Module, run: TrainingFile) -> OrderedDict[str, Any]:
    """The file's values under the model's names, with its module versions: the same code saved."""
    state = model.state_dict()
    saved = {**run.weights, **run.others}
    named = OrderedDict((name, saved[clean]) for name, clean in unwrap_names(state).items())
    named._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return named


def _restore_optimizer(
    record: OptimizerRecord, optimizer: torch.optim.Optimizer, entries: Iterable[Restored]
) -> None:
    for group, saved in zip(optimizer.param_groups, record.groups, strict=True):
        group.update(settings_of(saved))
    for one in entries:
        optimizer.state.pop(one.parameter, None)
        if one.entry:
            group = optimizer.param_groups[one.group]
            optimizer.state[one.parameter] = {
                key: placed(value, key, one.parameter, group, one.kept)
                for key, value in one.entry.items()
            }
