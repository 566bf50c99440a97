"""``surgery archs``: the names that can be built."""

from __future__ import annotations

import click

from surgery_cli.console import print_json, print_text, progress
from surgery_cli.options import output_options


@click.command(
    epilog="""\b
Examples:
  surgery archs convnext
  surgery archs 'timm:vit_*_224'
  surgery archs --json | jq -r '.architectures[]'
"""
)
@click.argument("pattern", default="*")
@output_options
def archs(pattern: str, as_json: bool) -> None:
    """List the architectures of timm and torchvision.

    PATTERN is a glob over their names; without wildcards it matches anywhere in a name.
    """
    from surgery.errors import ArchitectureError, did_you_mean

    with progress("asking timm and torchvision"):
        from surgery.networks.architectures import list_architectures

        names = list_architectures(pattern)
    if not names:
        known = (name.partition(":")[2] for name in list_architectures())
        near = did_you_mean(pattern.rpartition(":")[2], dict.fromkeys(known), 3)
        raise ArchitectureError(f"no architecture of timm or torchvision matches {pattern!r}{near}")
    if as_json:
        print_json({"architectures": list(names)})
    else:
        print_text("\n".join(names))
