"""``surgery diff``: what two checkpoints do not share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgery_cli.console import byte_progress, print_json, print_note, print_report
from surgery_cli.options import key_option, open_files, output_options

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
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--verify",
    is_flag=True,
    help="First read every byte of both: compare checksums where recorded, count NaN and Inf.",
)
@key_option
@output_options
@click.pass_context
def diff(
    context: click.Context, a: Path, b: Path, verify: bool, key: str | None, as_json: bool
) -> None:
    """Compare names, shapes, dtypes and values of two checkpoints.

    Exits 0 where they agree and 1 where they differ, or where --verify finds one damaged.
    """
    from surgery.checkpoint import refuse_damage
    from surgery.checkpoint.difference import compare
    from surgery.report.contents import verified_note
    from surgery.report.differences import difference_report

    first, second = open_files((a, b), key)
    verified = []
    if verify:
        with byte_progress(f"verifying {a} and {b}", _nbytes(first) + _nbytes(second)) as done:
            verified = [file.verify(progress=done) for file in (first, second)]
        refuse_damage(*verified)
        for each in verified:
            print_note(verified_note(each))
    with byte_progress(f"comparing {a} and {b}", _nbytes(first)) as done:
        difference = compare(first, second, progress=done)
    if as_json:
        said = {"verification": [each.to_dict() for each in verified]} if verified else {}
        print_json({"same": not difference, **difference.to_dict(), **said})
    else:
        print_report(difference_report(difference, names=(str(a), str(b))))
    context.exit(DIFFERENT if difference else 0)


def _nbytes(checkpoint: Checkpoint) -> int:
    """Bytes of all values."""
    return sum(spec.nbytes for spec in checkpoint.specs)
