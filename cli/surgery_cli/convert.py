"""``surgery convert``: a checkpoint in another format, in another dtype, or in shards."""

from __future__ import annotations

from pathlib import Path

import click

from surgery_cli.console import note_shard, print_written, progress, show
from surgery_cli.options import (
    FILE,
    NEW_FILE,
    key_option,
    output_options,
    refuse_outputs,
    shard_option,
)


@click.command(
    epilog="""\b
Examples:
  surgery convert old.pt new.safetensors
  surgery convert run.pth.tar weights.safetensors --key state_dict_ema
  surgery convert model.safetensors half.safetensors --dtype bfloat16 --strict
  surgery convert pytorch_model.bin.index.json model.safetensors --max-shard-size 5GB
"""
)
@click.argument("file", metavar="IN", type=FILE)
@click.argument("out", type=NEW_FILE)
@click.option("--dtype", metavar="DTYPE", help="Of all real floating tensors, such as bfloat16.")
@key_option
@click.option("--strict", is_flag=True, help="Refuse casts that break values.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@shard_option
@output_options
def convert(
    file: Path,
    out: Path,
    dtype: str | None,
    key: str | None,
    strict: bool,
    force: bool,
    max_shard_bytes: int | None,
    as_json: bool,
) -> None:
    """Write the state dict in IN in the format of OUT's suffix.

    Names, ties and metadata come along; what no state dict holds (an optimizer, an epoch) is
    left out, and said. The output appears whole or not at all.
    """
    note_shard(file)
    refuse_outputs(out, max_shard_bytes, force, other="OUT")
    with progress(f"reading {file}"):
        from surgery.checkpoint import open_checkpoint
        from surgery.checkpoint.conversion import plan_conversion

        planned = plan_conversion(open_checkpoint(file, key=key), dtype=dtype)
    with progress(f"writing {out}", planned.nbytes) as done:
        outcome = planned.write(out, strict=strict, max_shard_bytes=max_shard_bytes, progress=done)
    what = ", ".join(filter(None, (planned.checkpoint.format, planned.checkpoint.key)))
    show(outcome, as_json=as_json, heading=(f"{file} ({what}) -> {out}",))
    if not as_json:
        print_written(outcome.files)
