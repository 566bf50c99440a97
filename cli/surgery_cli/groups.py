"""``surgery groups``: rules and a model to parameter groups, as a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import ArchitectureError, Problem, RuleError, SurgeryError
from surgery_cli.console import print_json, print_note, print_report, progress
from surgery_cli.options import (
    ArchitectureName,
    build_options,
    key_option,
    open_files,
    output_options,
    refuse_existing,
)

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint
    from surgery.specs import ModelSpec
    from surgery.tuning import Rules


@click.command(
    epilog="""\b
Examples:
  surgery groups timm:resnet50 --init
  surgery groups --rules rules.txt
  surgery groups new.safetensors --rules rules.txt
  surgery groups timm:resnet50 --num-classes 10 --from old.pt --rules rules.txt
  surgery groups --rules rules.txt --why layer4.0.bn1.weight

\b
A rules file:
  model timm:resnet50
  base optimizer=adamw lr=1e-3 wd=0.05
  :all decay=0.75
  :1d wd=0
  conv1, layer1 freeze
  fc lr*=5
"""
)
@click.argument("model", required=False, type=ArchitectureName())
@click.option(
    "--rules",
    type=click.Path(path_type=Path),
    default=Path("rules.txt"),
    show_default=True,
    help="The rules file.",
)
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    help="A checkpoint: what it loads is :loaded, the rest is :new.",
)
@key_option
@click.option("--why", metavar="NAME", help="Show the lines that fired for one parameter.")
@click.option("--init", is_flag=True, help="Write a commented starting rules file for MODEL.")
@click.option("--force", is_flag=True, help="With --init, replace an existing rules file.")
@build_options
@output_options
def groups(
    model: str | None,
    rules: Path,
    origin: Path | None,
    key: str | None,
    why: str | None,
    init: bool,
    force: bool,
    arguments: dict[str, Any],
    num_classes: int | None,
    as_json: bool,
) -> None:
    """Show the parameter groups that a rules file makes of MODEL.

    MODEL is an architecture (as for `surgery transfer`) or a checkpoint file, whose names and
    shapes are enough; where it is left out, the rules file's `model` line names it.
    """
    if init:
        _init(model, key, rules, force, arguments, num_classes, as_json)
        return
    from surgery.tuning import resolve_groups
    from surgery.tuning import why as why_of

    read, problems = _read_rules(rules, model)
    name = model or read.model
    if name is None:
        raise (
            RuleError(str(rules), problems)
            if problems
            else SurgeryError(
                f"no model is named: give MODEL, or write a line `model timm:NAME` in {rules}"
            )
        )
    with progress(f"looking at {name}"), _model_line(read, given=model is not None):
        look = _look_at(name, origin, key, arguments, num_classes)
    # What is wrong with the lines is told together with what is wrong with their meaning.
    resolved = resolve_groups(look.spec, rules if problems else read, transfer=look.status)
    if why is not None:
        firings = why_of(resolved, why)
        if as_json:
            print_json(_why_to_dict(why, firings))
            return
        from surgery.report import why_report

        print_report(why_report(why, firings))
        return
    if as_json:
        print_json({"architecture": look.described[0], **resolved.to_dict()})
        return
    from surgery.report import groups_report

    print_report(groups_report(resolved, heading=look.described))


def _read_rules(path: Path, model: str | None) -> tuple[Rules, tuple[Problem, ...]]:
    from surgery.tuning.rules import read_what_can_be

    if not path.exists():
        raise SurgeryError(
            f"there is no {path}; `surgery groups {model or 'MODEL'} --init --rules {path}` "
            "writes one to start from"
        )
    return read_what_can_be(path)


@contextmanager
def _model_line(rules: Rules, *, given: bool) -> Iterator[None]:
    """An architecture that the rules name and nobody knows is an error of their line."""
    try:
        yield
    except ArchitectureError as error:
        if given:
            raise
        raise RuleError(rules.path, [Problem(rules.model_line, error.message)]) from error


def _init(
    model: str | None,
    key: str | None,
    rules: Path,
    force: bool,
    arguments: Mapping[str, Any],
    num_classes: int | None,
    as_json: bool,
) -> None:
    from surgery.tuning import initial_rules

    if model is None:
        raise SurgeryError("--init needs a MODEL to write rules for")
    # An empty file is what `surgery groups MODEL --init > rules.txt` has just made.
    is_empty = rules.is_file() and rules.stat().st_size == 0
    refuse_existing(rules, force or is_empty, other="--rules")
    with progress(f"looking at {model}"):
        look = _look_at(model, None, key, arguments, num_classes)
    text = _built_with(arguments, num_classes) + initial_rules(look.spec, model, look.heads)
    try:
        rules.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SurgeryError(f"{rules}: cannot be written: {error.strerror}") from error
    if as_json:
        print_json({"output": str(rules), "rules": text})
        return
    click.echo(text, nl=False)
    print_note(f"wrote {rules}")


def _built_with(arguments: Mapping[str, Any], num_classes: int | None) -> str:
    """A `model` line names an architecture alone; what else it was built with is for a person."""
    options = [f"--arg {name}={value}" for name, value in arguments.items()]
    options += [] if num_classes is None else [f"--num-classes {num_classes}"]
    return f"# Written for a model built with {' '.join(options)}.\n" if options else ""


@dataclass(frozen=True, slots=True)
class _Look:
    """A model as rules see it.

    ``described`` says in lines how it was read; ``status`` is every tensor's where a transfer
    tells it, ``heads`` the paths of its heads where a live model could be asked.
    """

    described: tuple[str, ...]
    spec: ModelSpec
    status: Mapping[str, str] | None = None
    heads: tuple[str, ...] | None = None


def _look_at(
    name: str,
    origin: Path | None,
    key: str | None,
    arguments: Mapping[str, Any],
    num_classes: int | None,
) -> _Look:
    """An architecture or a file, with the status that ``origin`` gives its tensors."""
    is_file = Path(name).exists()
    paths = ([Path(name)] if is_file else []) + ([origin] if origin else [])
    files = open_files(paths, key)
    look = (
        _look_at_file(name, files[0], arguments, num_classes)
        if is_file
        else _look_at_architecture(name, arguments, num_classes)
    )
    return _with_status(look, files[-1]) if origin else look


def _look_at_architecture(
    name: str, arguments: Mapping[str, Any], num_classes: int | None
) -> _Look:
    from surgery.architectures import blueprint, find_architecture

    architecture = find_architecture(name)
    target = blueprint(architecture, arguments=arguments, num_classes=num_classes)
    return _Look((str(architecture),), target.spec, heads=target.heads)


def _look_at_file(
    name: str, checkpoint: Checkpoint, arguments: Mapping[str, Any], num_classes: int | None
) -> _Look:
    from surgery.record import read_record
    from surgery.specs import ModelSpec

    if arguments or num_classes is not None:
        raise SurgeryError(f"{name} is a file; --arg and --num-classes are for architectures")
    record = read_record(checkpoint.metadata, checkpoint.specs)
    if record is not None:
        described = f"{name} (a transfer into {record.architecture})"
        return _Look((described,), record.model, record.status)
    spec = ModelSpec.from_tensors(checkpoint.specs, ties=checkpoint.ties)
    described = f"{name} ({checkpoint.format}: names and shapes alone, no module types)"
    return _Look((described,), spec)


def _with_status(look: _Look, checkpoint: Checkpoint) -> _Look:
    """What a transfer recorded in the file; else what a transfer from it would load."""
    from surgery.record import read_record
    from surgery.transfers import plan_transfer

    record = read_record(checkpoint.metadata, checkpoint.specs)
    if record is not None and record.model.by_name == look.spec.by_name:
        said = f":new and :loaded as recorded in {checkpoint.path}"
        return replace(look, described=(*look.described, said), status=record.status)
    plan = plan_transfer(checkpoint, look.spec)
    plan.refuse_unless(min_loaded=0.0)
    said = f":loaded are the {plan.loaded_fraction:.2%} that {checkpoint.path} holds"
    status = {step.target.name: step.status for step in plan.steps}
    return replace(look, described=(*look.described, said), status=status)


def _why_to_dict(name: str, firings: Any) -> dict[str, Any]:
    return {
        "parameter": name,
        "fired": [
            {
                "line": firing.line,
                "text": firing.text,
                "action": firing.action,
                "attribute": firing.attribute,
                "value": firing.value,
            }
            for firing in firings
        ],
    }
