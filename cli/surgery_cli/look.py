"""A model by name, and a rules file -> groups: what `groups` and `schedule` begin with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import ArchitectureError, Problem, RuleError, SurgeryError
from surgery.wording import percent_text
from surgery_cli.console import progress
from surgery_cli.options import open_files

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint
    from surgery.specs import ModelSpec
    from surgery.tuning import ParamGroups


def resolve(
    model: str | None,
    rules: Path,
    origin: Path | None,
    key: str | None,
    arguments: Mapping[str, Any],
    num_classes: int | None,
) -> tuple[Look, ParamGroups]:
    """The model that is named, in the call or by the rules' ``model`` line, and its groups."""
    from surgery.tuning import resolve_groups
    from surgery.tuning.rules import read_what_can_be

    if not os.path.exists(rules):
        raise SurgeryError(
            f"there is no {rules}; `surgery groups {model or 'MODEL'} --init --rules {rules}` "
            "writes one to start from"
        )
    read, problems = read_what_can_be(rules)
    name = model or read.model
    if name is None:
        if problems:
            raise RuleError(str(rules), problems)
        raise SurgeryError(
            f"no model is named: give MODEL, or write a line `model timm:NAME` in {rules}"
        )
    try:
        with progress(f"looking at {name}"):
            look = look_at(name, origin, key, arguments, num_classes)
    except ArchitectureError as error:
        if model is not None:
            raise
        raise RuleError(read.path, [Problem(read.lines["model"], error.message)]) from error
    # What is wrong with the lines comes together with what is wrong with their meaning.
    return look, resolve_groups(
        look.spec, rules if problems else read, transfer=look.status, heads=look.heads
    )


@dataclass(frozen=True, slots=True)
class Look:
    """A model as rules see it.

    ``described`` says in lines how it was read; ``status`` is every tensor's where a transfer
    says it, ``heads`` the paths of its heads where a live model shows them.
    """

    described: tuple[str, ...]
    spec: ModelSpec
    status: Mapping[str, str] | None = None
    heads: tuple[str, ...] | None = None


def look_at(
    name: str,
    origin: Path | None,
    key: str | None,
    arguments: Mapping[str, Any],
    num_classes: int | None,
) -> Look:
    """An architecture or a file, with the status that ``origin`` gives its tensors."""
    is_file = os.path.exists(name)
    paths = ([Path(name)] if is_file else []) + ([origin] if origin else [])
    files = open_files(paths, key)
    look = (
        _look_at_file(name, files[0], arguments, num_classes)
        if is_file
        else _look_at_architecture(name, arguments, num_classes)
    )
    return _with_status(look, files[-1]) if origin else look


def _look_at_architecture(name: str, arguments: Mapping[str, Any], num_classes: int | None) -> Look:
    from surgery.networks.architectures import find_architecture
    from surgery.networks.blueprints import blueprint

    architecture = find_architecture(name)
    target = blueprint(architecture, arguments=arguments, num_classes=num_classes)
    return Look((str(architecture),), target.spec, heads=target.find_heads())


def _look_at_file(
    name: str, checkpoint: Checkpoint, arguments: Mapping[str, Any], num_classes: int | None
) -> Look:
    from surgery.record import read_record
    from surgery.specs import ModelSpec

    if arguments or num_classes is not None:
        raise SurgeryError(f"{name} is a file; --arg and --num-classes are for architectures")
    record = read_record(checkpoint.metadata, checkpoint.specs)
    if record is not None:
        described = f"{name} (a transfer into {record.architecture})"
        return Look((described,), record.model, record.status)
    spec = ModelSpec.from_tensors(checkpoint.specs, ties=checkpoint.ties)
    described = f"{name} ({checkpoint.format}: names and shapes alone, no module types)"
    return Look((described,), spec)


def _with_status(look: Look, checkpoint: Checkpoint) -> Look:
    """What a transfer recorded in the file; else what a transfer from it would load."""
    from surgery.record import read_record
    from surgery.transfers import plan_transfer

    record = read_record(checkpoint.metadata, checkpoint.specs)
    if record is not None and record.model.by_name == look.spec.by_name:
        said = f":new and :loaded as recorded in {checkpoint.path}"
        return replace(look, described=(*look.described, said), status=record.status)
    plan = plan_transfer(checkpoint, look.spec, min_loaded=0, keep_open=True)
    plan.refuse_unaccepted()
    said = f":loaded are the {percent_text(plan.loaded_fraction)} that {checkpoint.path} holds"
    status = {step.target.name: step.state for step in plan.steps}
    return replace(look, described=(*look.described, said), status=status)
