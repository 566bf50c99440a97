"""``surgery inspect``: what a file holds, without running any of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery_cli.console import byte_progress, print_json, print_report, progress
from surgery_cli.options import output_options

if TYPE_CHECKING:
    from surgery.checkpoint import Contents, Verification
    from surgery.checkpoint.holding import StateDict

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
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--verify",
    is_flag=True,
    help="Read every byte: compare checksums where the file records them, count NaN and Inf.",
)
@output_options
@click.pass_context
def inspect(context: click.Context, file: Path, verify: bool, as_json: bool) -> None:
    """Show the state dicts, tensors and metadata in FILE, whoever wrote it.

    Nothing in the file is executed; what it names and is not known is listed. With --verify a
    damaged file exits 1.
    """
    from surgery.checkpoint import read_contents
    from surgery.report.contents import contents_report

    with progress(f"reading {file}"):
        contents = read_contents(file)
    verification = None
    if verify:
        with byte_progress(f"verifying {file}", contents.size) as done:
            verification = contents.verify(progress=done)
    if as_json:
        print_json(_to_dict(contents, verification))
    else:
        print_report(contents_report(contents, verification))
    context.exit(DAMAGED if verification is not None and verification.is_damaged else 0)


def _to_dict(contents: Contents, verification: Verification | None) -> dict[str, Any]:
    return {
        "path": str(contents.path),
        "format": contents.format,
        "bytes": contents.size,
        "state_dicts": [_state_dict(state) for state in contents.state_dicts],
        "others": dict(contents.others),
        "opaque": list(contents.opaque),
        **({"verification": verification.to_dict()} if verification is not None else {}),
    }


def _state_dict(state: StateDict) -> dict[str, Any]:
    return {
        "key": state.key,
        "tensors": [
            {
                "name": spec.name,
                "shape": list(spec.shape),
                "dtype": spec.dtype,
                "elements": spec.numel,
                "bytes": spec.nbytes,
            }
            for spec in state.specs
        ],
        "ties": [list(names) for names in state.ties],
        "unlisted": [[name, what] for name, what in state.unlisted],
        "versions": dict(state.versions),
        "metadata": dict(state.metadata),
    }
