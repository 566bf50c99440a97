"""``surgery map``: what structure decides, as a mapping file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surgery.showing import json_of
from surgery_cli.console import note_shard, print_json, print_note, print_text, progress
from surgery_cli.options import (
    FILE,
    NEW_FILE,
    ArchitectureName,
    build_options,
    hint_option,
    key_option,
    output_options,
    refuse_existing,
    source_options,
)


@click.command(
    "map",
    epilog="""\b
Examples:
  surgery map hf_vit/ vit_base_patch16_224 > vit.map
  surgery transfer hf_vit/ vit_base_patch16_224 --mapping vit.map
  surgery map old.pth timm:resnet50 --hint 'conv3 -> reduce' -o names.map
""",
)
@click.argument("old", type=FILE)
@click.argument("new_arch", type=ArchitectureName())
@click.option(
    "-o",
    "--out",
    type=NEW_FILE,
    help="The mapping file.  [default: stdout]",
)
@build_options
@hint_option
@source_options
@key_option
@click.option(
    "--min-loaded",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the new parameters below which nothing is printed.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@output_options
def map_command(
    old: Path, new_arch: str, out: Path | None, force: bool, as_json: bool, **wanted: Any
) -> None:
    """Print what structure decides as a mapping file.

    What `surgery transfer OLD NEW-ARCH --match structure` would do, short enough to be read, edited
    and committed: --mapping takes it, and moves the same tensors to the same places without
    deciding again. What stays open, fresh and unused is in its comments. Exits 1 where too little
    is matched.
    """
    from surgery.checkpoint.text import write_text
    from surgery.transfers.mapping import mapping_of
    from surgery.transfers.planning import plan
    from surgery.transfers.request import TransferRequest

    if out is not None:
        refuse_existing(out, force)
    note_shard(old)
    request = TransferRequest(
        source=old, target=new_arch, match="structure", keep_open=True, **wanted
    )
    with progress(f"reading {old}, building {new_arch}"):
        planned = plan(request)
    planned.refuse_unaccepted()
    text = mapping_of(planned)
    if out is not None:
        write_text(out, text)
    if as_json:
        print_json(
            {
                "architecture": planned.target_label,
                "output": str(out) if out else None,
                "mapping": text,
                "loaded_fraction": planned.loaded_fraction,
                "fresh": planned.names("fresh", "open"),
                "unused": [unused.source.name for unused in planned.unused],
                "open": json_of(planned.open),
            }
        )
    elif out is None:
        print_text(text.removesuffix("\n"))
    if out is not None:
        print_note(f"wrote {out}")
