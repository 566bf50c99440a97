"""``surgery schedule``: every group's rate over a run that has not started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surgery_cli.console import print_json, print_note, print_report, progress
from surgery_cli.look import resolve
from surgery_cli.options import (
    ArchitectureName,
    build_options,
    origin_options,
    output_options,
)


@click.command(
    epilog="""\b
Examples:
  surgery schedule --rules rules.txt --epochs 30
  surgery schedule --rules rules.txt --epochs 30 --steps-per-epoch 100 --plot lr.png
  surgery schedule timm:resnet18 --rules rules.txt --epochs 7 --json

\b
A schedule in a rules file:
  schedule cosine floor=0.01 warmup=2
  schedule sgdr T_0=1epoch T_mult=2 by=step
  schedule plateau patience=3 factor=0.5
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
@click.option("--epochs", type=click.IntRange(min=1), required=True, help="Length of the run.")
@click.option(
    "--steps-per-epoch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Steps of the optimizer in an epoch; for schedules with by=step.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the curves: .png, .svg or .pdf; replaces FILE.",
)
@origin_options
@build_options
@output_options
def schedule(
    model: str | None,
    rules: Path,
    epochs: int,
    steps_per_epoch: int,
    plot: Path | None,
    origin: Path | None,
    key: str | None,
    arguments: dict[str, Any],
    num_classes: int | None,
    as_json: bool,
) -> None:
    """Show the rates that every group of MODEL will have, without training anything.

    Restarts, the end of a warm-up and unfreezings are marked. MODEL is as for `surgery groups`.
    """
    from surgery.training.curve import schedule_curve

    look, groups = resolve(model, rules, origin, key, arguments, num_classes)
    with progress("following the schedule"):
        curve = schedule_curve(groups, epochs=epochs, steps_per_epoch=steps_per_epoch)
    if plot is not None:
        from surgery.training.schedule_plot import plot_schedule

        plot_schedule(curve, plot)
    if as_json:
        drawn = {} if plot is None else {"plot": str(plot)}
        print_json({"architecture": look.described[0], **curve.to_dict(), **drawn})
        return
    from surgery.report.schedules import schedule_report

    print_report(schedule_report(curve, heading=look.described))
    if plot is not None:
        print_note(f"wrote {plot}")
