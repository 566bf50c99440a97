"""``surgery diff``: what two checkpoints, or two architectures, do not share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgery_cli.console import print_note, progress, show
from surgery_cli.options import FileOrArchitecture, key_option, open_files, output_options

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint

DIFFERENT = 1


@click.command(
    epilog="""\b
Examples:
  surgery diff before.pt after.pt
  surgery diff before.pt after.pt --json | jq '.values | max_by(.relative)'
  surgery diff model.bin model.safetensors && echo the same
  surgery diff torchvision:mobilenet_v3_large timm:mobilenetv3_large_100
  surgery diff mine.py:make_model timm:vit_base_patch16_224
"""
)
@click.argument("a", type=FileOrArchitecture())
@click.argument("b", type=FileOrArchitecture())
@click.option(
    "--verify",
    is_flag=True,
    help="First read every byte of both: compare checksums where recorded, count NaN and Inf.",
)
@key_option
@output_options
def diff(a: Path | str, b: Path | str, verify: bool, key: str | None, as_json: bool) -> int:
    """Compare two checkpoints, or what two architectures compute.

    Of checkpoints names, shapes, dtypes and values are compared. Architectures are run side by
    side with random weights, and names are not read: they are one
    network, or part at an operator. Exits 0 where both agree and 1 where they differ, or where
    --verify finds a file damaged.
    """
    if isinstance(a, str) and isinstance(b, str):
        if verify or key:
            raise click.UsageError("--verify and --key are for files")
        return _compare_architectures(a, b, as_json)
    if isinstance(a, str) or isinstance(b, str):
        file, architecture = (b, a) if isinstance(a, str) else (a, b)
        raise click.UsageError(
            f"{architecture} is an architecture and {file} is none; give two of one kind. "
            f"`surgery identify {file}` says which architecture a file is of"
        )
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


def _compare_architectures(a: str, b: str, as_json: bool) -> int:
    from surgery.matching.code.comparison import compare

    found = compare(a, b)
    show(found, as_json=as_json)
    return 0 if found.same and not found.scalars else DIFFERENT


def _nbytes(checkpoint: Checkpoint) -> int:
    """Bytes of all values."""
    return sum(spec.nbytes for spec in checkpoint.specs)
