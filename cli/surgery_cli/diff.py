"""``surgery diff``: what two checkpoints do not share."""

from __future__ import annotations

from pathlib import Path

import click

from surgery_cli.console import print_json, print_report, progress
from surgery_cli.options import output_options

DIFFERENT = 1


@click.command(
    epilog="""\b
Examples:
  surgery diff before.pt after.pt
  surgery diff model.bin model.safetensors && echo the same
"""
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--key", help="Which state dict, where a file holds several.")
@output_options
@click.pass_context
def diff(context: click.Context, a: Path, b: Path, key: str | None, as_json: bool) -> None:
    """Compare names, shapes, dtypes and values of two checkpoints.

    Exits 0 where they agree and 1 where they differ.
    """
    from surgery.checkpoint import open_checkpoint
    from surgery.difference import compare
    from surgery.report import difference_report

    first, second = open_checkpoint(a, key=key), open_checkpoint(b, key=key)
    with progress(f"comparing {a} and {b}"):
        difference = compare(first, second)
    if as_json:
        print_json({"same": not difference, **difference.to_dict()})
    else:
        print_report(difference_report(difference, names=(str(a), str(b))))
    context.exit(DIFFERENT if difference else 0)
