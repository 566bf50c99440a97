"""``surgery map``: what structure decides, as a rename file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import SurgeryError
from surgery_cli.console import note_shard, print_json, print_note, progress
from surgery_cli.options import (
    ArchitectureName,
    build_options,
    check_source_options,
    hint_option,
    key_option,
    min_loaded_option,
    output_options,
    refuse_existing,
    source_options,
)

if TYPE_CHECKING:
    from surgery.transfers.tofile import FileTransfer


@click.command(
    "map",
    epilog="""\b
Examples:
  surgery map hf_vit/ vit_base_patch16_224 > vit.map
  surgery transfer hf_vit/ vit_base_patch16_224 --map vit.map
  surgery map old.pth timm:resnet50 --hint 'conv3 = reduce' -o renames.txt
""",
)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new_arch", type=ArchitectureName())
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The rename file.  [default: stdout]",
)
@build_options
@hint_option
@source_options
@key_option
@min_loaded_option
@click.option("--force", is_flag=True, help="Replace an existing file.")
@output_options
def map_command(
    old: Path,
    new_arch: str,
    out: Path | None,
    arguments: dict[str, Any],
    num_classes: int | None,
    hints: tuple[str, ...],
    source_arch: str | None,
    source_arguments: dict[str, Any],
    key: str | None,
    min_loaded: float,
    force: bool,
    as_json: bool,
) -> None:
    """Print what `surgery transfer OLD NEW-ARCH --match structure` decides as a rename file.

    The file is short enough to be read, edited and committed; --map takes it, and moves the same
    tensors to the same places without deciding again. What stays open, fresh and unused is in its
    comments. Exits 1 where too little is matched.
    """
    if out is not None:
        refuse_existing(out, force)
    note_shard(old)
    check_source_options(source_arch, source_arguments)
    with progress(f"reading {old}"):
        from surgery.checkpoint import open_checkpoint

        source = open_checkpoint(old, key=key)
    with progress(f"building {new_arch}"):
        from surgery.networks.architectures import find_architecture
        from surgery.transfers.tofile import plan_file_transfer

        job = plan_file_transfer(
            source,
            find_architecture(new_arch),
            arguments=arguments,
            num_classes=num_classes,
            match="structure",
            hints=hints,
            source_architecture=find_architecture(source_arch) if source_arch else None,
            source_arguments=source_arguments,
        )
    job.plan.refuse_unless(min_loaded=min_loaded, keep_open=True)
    from surgery.checkpoint.weights import names_of
    from surgery.transfers.mapping import map_heading, write_renames

    text = write_renames(
        job.plan,
        names_of(job.source),
        job.target.spec,
        heading=map_heading(job.plan, str(old), job.architecture.label),
    )
    if out is not None:
        _write(out, text)
    if as_json:
        print_json(_as_json(job, out, text))
    elif out is None:
        click.echo(text, nl=False)
    if out is not None:
        print_note(f"wrote {out}")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SurgeryError(f"{out}: cannot be written: {error.strerror}") from error


def _as_json(job: FileTransfer, out: Path | None, text: str) -> dict[str, Any]:
    plan = job.plan
    return {
        "architecture": job.architecture.label,
        "output": str(out) if out else None,
        "renames": text,
        "loaded_fraction": plan.loaded_fraction,
        "fresh": list(plan.names("fresh")),
        "unused": [unused.source.name for unused in plan.unused],
        "refused": plan.to_dict()["refused"],
    }
