"""``surgery groups``: rules and a model to parameter groups, as a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import SurgeryError
from surgery_cli.console import print_json, print_note, print_report, progress
from surgery_cli.options import (
    ArchitectureName,
    build_options,
    origin_options,
    output_options,
    refuse_existing,
)

if TYPE_CHECKING:
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
@origin_options
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
        _init(model, rules, force, arguments, num_classes, as_json)
        return
    from surgery.tuning import read_rules, resolve_groups
    from surgery.tuning import why as why_of

    read = read_rules(rules)
    name = named_model(model, read)
    with progress(f"looking at {name}"):
        described, spec, status = look_at(name, arguments, num_classes)
        if origin is not None:
            status = status_from(origin, key, spec)
    resolved = resolve_groups(spec, read, transfer=status)
    if why is not None:
        firings = why_of(resolved, why)
        if as_json:
            print_json(_why_to_dict(why, firings))
            return
        from surgery.report import why_report

        print_report(why_report(why, firings))
        return
    if as_json:
        print_json({"architecture": described, **resolved.to_dict()})
        return
    from surgery.report import groups_report

    print_report(groups_report(resolved, heading=(described,)))


def _init(
    model: str | None,
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
    refuse_existing(rules, force or (rules.is_file() and rules.stat().st_size == 0))
    with progress(f"looking at {model}"):
        _, spec, _ = look_at(model, arguments, num_classes)
    text = initial_rules(spec, model)
    rules.write_text(text, encoding="utf-8")
    if as_json:
        print_json({"output": str(rules), "rules": text})
        return
    click.echo(text, nl=False)
    print_note(f"wrote {rules}")


def named_model(model: str | None, rules: Rules) -> str:
    """The argument, else the rules file's ``model`` line; SurgeryError where both are missing."""
    name = model or rules.model
    if name is None:
        raise SurgeryError(
            f"no model is named: give MODEL, or write a line `model timm:NAME` in {rules.path}"
        )
    return name


def look_at(
    name: str, arguments: Mapping[str, Any], num_classes: int | None
) -> tuple[str, ModelSpec, Mapping[str, str] | None]:
    """(how it was read, its spec, the status a transfer recorded) of an architecture or a file."""
    if Path(name).exists():
        return _look_at_file(name, arguments, num_classes)
    from surgery.architectures import blueprint, find_architecture

    architecture = find_architecture(name)
    target = blueprint(architecture, arguments=arguments, num_classes=num_classes)
    return str(architecture), target.spec, None


def _look_at_file(
    name: str, arguments: Mapping[str, Any], num_classes: int | None
) -> tuple[str, ModelSpec, Mapping[str, str] | None]:
    from surgery.checkpoint import open_checkpoint
    from surgery.record import read_record
    from surgery.specs import ModelSpec

    if arguments or num_classes is not None:
        raise SurgeryError(f"{name} is a file; --arg and --num-classes are for architectures")
    checkpoint = open_checkpoint(name)
    record = read_record(checkpoint.metadata, checkpoint.specs)
    if record is not None:
        return f"{name} (a transfer into {record.architecture})", record.model, record.status
    spec = ModelSpec.from_tensors(checkpoint.specs, ties=checkpoint.ties)
    return f"{name} ({checkpoint.format}: names and shapes alone, no module types)", spec, None


def status_from(origin: Path, key: str | None, spec: ModelSpec) -> Mapping[str, str]:
    """What a transfer recorded in the file; else what a transfer from it would load."""
    from surgery.checkpoint import open_checkpoint
    from surgery.record import read_record
    from surgery.transfers import plan_transfer

    checkpoint = open_checkpoint(origin, key=key)
    record = read_record(checkpoint.metadata, checkpoint.specs)
    if record is not None and record.model.by_name == spec.by_name:
        return record.status
    plan = plan_transfer(checkpoint, spec)
    plan.refuse_unless(min_loaded=0.0)
    return {step.target.name: step.status for step in plan.steps}


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
