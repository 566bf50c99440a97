"""``surgery inspect``: what a file holds, without running any of it."""

from __future__ import annotations

from pathlib import Path

import click

from surgery_cli.console import progress, show
from surgery_cli.options import FILE, output_options

DAMAGED = 1


@click.command(
    epilog="""\b
Examples:
  surgery inspect old.pt
  surgery inspect old.pt --verify
  surgery inspect model.safetensors.index.json
  surgery inspect run.pth.tar --json | jq '.state_dicts[].key'
"""
)
@click.argument("file", type=FILE)
@click.option(
    "--verify",
    is_flag=True,
    help="Read every byte: compare checksums where the file records them, count NaN and Inf.",
)
@output_options
def inspect(file: Path, verify: bool, as_json: bool) -> int:
    """Show the state dicts, tensors and metadata in FILE.

    Nothing in the file is executed; what it names and is not known is listed. With --verify a
    damaged file exits 1.
    """
    from surgery.checkpoint import read_contents

    with progress(f"reading {file}"):
        contents = read_contents(file)
    verification = None
    if verify:
        with progress(f"verifying {file}", contents.size) as done:
            verification = contents.verify(progress=done)
    beside = {"verification": verification.to_dict()} if verification else {}
    show(contents, as_json=as_json, beside=beside, verification=verification)
    return DAMAGED if verification is not None and verification.is_damaged else 0
