"""``surgery inspect``: what a file holds, without running any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surgery_cli.console import print_json, print_report, progress
from surgery_cli.options import output_options


@click.command(
    epilog="""\b
Examples:
  surgery inspect old.pt
  surgery inspect model.safetensors.index.json
  surgery inspect run.pth.tar --json | jq '.state_dicts[].key'
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@output_options
def inspect(file: Path, as_json: bool) -> None:
    """Show the state dicts, tensors and metadata in FILE, whoever wrote it.

    Nothing in the file is executed; what it names and is not known is listed.
    """
    from surgery.checkpoint import read_contents
    from surgery.report import contents_report

    with progress(f"reading {file}"):
        contents = read_contents(file)
    if as_json:
        print_json(_to_dict(contents))
        return
    print_report(contents_report(contents))


def _to_dict(contents: Any) -> dict[str, Any]:
    return {
        "path": str(contents.path),
        "format": contents.format,
        "bytes": contents.size,
        "state_dicts": [
            {
                "key": key,
                "tensors": [[s.name, list(s.shape), s.dtype] for s in specs],
                "unlisted": [[name, what] for at, name, what in contents.unlisted if at == key],
            }
            for key, specs in contents.state_dicts
        ],
        "others": dict(contents.others),
        "opaque": list(contents.opaque),
        "metadata": dict(contents.metadata),
    }
