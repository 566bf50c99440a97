"""``surgery groups``: rules and a model to parameter groups, as a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import SelectorError, SurgeryError
from surgery_cli.console import print_json, print_note, print_text, progress, show
from surgery_cli.look import Look, look_at, resolve
from surgery_cli.options import output_options, refuse_existing, rules_options

if TYPE_CHECKING:
    from surgery.report.groups import Why
    from surgery.tuning import ParamGroups


@click.command(
    epilog="""\b
Examples:
  surgery groups timm:resnet50 --init
  surgery groups --rules rules.txt
  surgery groups new.safetensors --rules rules.txt
  surgery groups timm:resnet50 --num-classes 10 --from old.pt --rules rules.txt
  surgery groups --rules rules.txt --why layer4.0.bn1.weight
  surgery groups --rules rules.txt --why 'layer[34] & :bias'

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
@rules_options
@click.option(
    "--why", metavar="SELECTOR", help="Show the lines that fired for these parameters, in order."
)
@click.option("--init", is_flag=True, help="Write a commented starting rules file for MODEL.")
@click.option("--force", is_flag=True, help="With --init, replace an existing rules file.")
@output_options
def groups(why: str | None, init: bool, force: bool, as_json: bool, **named: Any) -> None:
    """Show the parameter groups that a rules file makes of MODEL.

    MODEL is an architecture (as for `surgery transfer`) or a checkpoint file, whose names and
    shapes are enough; where it is left out, the rules file's `model` line names it.
    """
    if init:
        del named["origin"]
        _init(**named, force=force, as_json=as_json)
        return
    look, resolved = resolve(**named)
    if why is not None:
        show(_why(look, resolved, why), as_json=as_json)
        return
    beside = {"architecture": look.described[0]}
    show(resolved, as_json=as_json, beside=beside, heading=look.described)


def _why(look: Look, groups: ParamGroups, selector: str) -> Why:
    from surgery.networks.selection import select
    from surgery.report.groups import Why
    from surgery.tuning import why

    try:  # a name is one whatever it looks like, and with its wrappers too
        return Why(selector, {selector: why(groups, selector)})
    except SelectorError:
        names = select(look.spec, selector, transfer=look.status, heads=look.heads)
    return Why(selector, {name: why(groups, name) for name in names})


def _init(
    model: str | None,
    key: str | None,
    rules: Path,
    force: bool,
    arguments: Mapping[str, Any],
    num_classes: int | None,
    as_json: bool,
) -> None:
    from surgery.checkpoint.text import write_text
    from surgery.tuning import initial_rules

    if model is None:
        raise SurgeryError("--init needs a MODEL to write rules for")
    # An empty file is what `surgery groups MODEL --init > rules.txt` has just made.
    is_empty = rules.is_file() and rules.stat().st_size == 0
    refuse_existing(rules, force or is_empty, other="--rules")
    with progress(f"looking at {model}"):
        look = look_at(model, None, key, arguments, num_classes)
    text = _built_with(arguments, num_classes) + initial_rules(look.spec, model, look.heads)
    write_text(rules, text)
    if as_json:
        print_json({"output": str(rules), "rules": text})
        return
    print_text(text.removesuffix("\n"))
    print_note(f"wrote {rules}")


def _built_with(arguments: Mapping[str, Any], num_classes: int | None) -> str:
    """A `model` line names an architecture alone; what else it was built with is for a person."""
    options = [f"--arg {name}={value}" for name, value in arguments.items()]
    options += [] if num_classes is None else [f"--num-classes {num_classes}"]
    return f"# Written for a model built with {' '.join(options)}.\n" if options else ""
