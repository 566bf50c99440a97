"""``surgery diff``: what two checkpoints do not share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgery_cli.console import print_note, progress, show
from surgery_cli.options import FILE, key_option, open_files, output_options

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint

DIFFERENT = 1


@click.command(
    epilog="""\b
Examples:
  surgery diff before.pt after.pt
  surgery diff before.pt after.pt --json | jq '.values | max_by(.relative)'
  surgery diff model.bin model.safetensors && echo the same
"""
)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option(
    "--verify",
    is_flag=True,
    help="First read every byte of both: compare checksums where recorded, count NaN and Inf.",
)
@key_option
@output_options
def diff(a: Path, b: Path, verify: bool, key: str | None, as_json: bool) -> int:
    """Compare names, shapes, dtypes and values of two checkpoints.

    Exits 0 where they agree and 1 where they differ, or where --verify finds one damaged.
    """
    from surgery.checkpoint.difference import compare
    from surgery.checkpoint.verification import refuse_damage
    from surgery.report import report_of

    first, second = open_files((a, b), key)
    verified = []
    if verify:
        with progress(f"verifying {a} and {b}", _nbytes(first) + _nbytes(second)) as done:
            verified = [file.verify(progress=done) for file in (first, second)]
        refuse_damage(*verified)
        for each in verified:
            print_note(report_of(each).text())
    with progress(f"comparing {a} and {b}", _nbytes(first)) as done:
        difference = compare(first, second, progress=done)
    beside = {"verification": [each.to_dict() for each in verified]} if verified else {}
    show(
        difference,
        as_json=as_json,
        beside={"same": not difference, **beside},
        names=(str(a), str(b)),
    )
    return DIFFERENT if difference else 0


def _nbytes(checkpoint: Checkpoint) -> int:
    """Bytes of all values."""
    return sum(spec.nbytes for spec in checkpoint.specs)
