"""``surgery schedule``: every group's learning rate over a run that has not started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surgery_cli.console import print_note, progress, show
from surgery_cli.look import resolve
from surgery_cli.options import NEW_FILE, output_options, refuse_existing, rules_options


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
@rules_options
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
    type=NEW_FILE,
    metavar="FILE",
    help="Draw the curves, as .png, .svg, .pdf, ... by the suffix.",
)
@click.option("--force", is_flag=True, help="Replace an existing picture.")
@output_options
def schedule(
    epochs: int,
    steps_per_epoch: int,
    plot: Path | None,
    force: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Show the learning rate of every group over a whole run.

    Nothing is trained. Restarts, the end of a warm-up and unfreezings are marked. MODEL is as for
    `surgery groups`.
    """
    from surgery.training.curve import schedule_curve

    look, groups = resolve(**named)
    if plot is not None:
        refuse_existing(plot, force, other="--plot")
    with progress("following the schedule"):
        curve = schedule_curve(groups, epochs=epochs, steps_per_epoch=steps_per_epoch)
    beside = {"architecture": look.described[0]}
    if plot is not None:
        from surgery.training.schedule_plot import plot_schedule

        plot_schedule(curve, plot)
        beside["plot"] = str(plot)
    show(curve, as_json=as_json, beside=beside, heading=look.described)
    if plot is not None and not as_json:
        print_note(f"wrote {plot}")
