"""``surgery transfer``: an old checkpoint into a new architecture, as a new file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery_cli.console import (
    byte_progress,
    note_shard,
    print_json,
    print_report,
    print_written,
    progress,
)
from surgery_cli.options import (
    ArchitectureName,
    build_options,
    check_source_options,
    hint_option,
    key_option,
    min_loaded_option,
    output_options,
    proof_options,
    refuse_outputs,
    shard_option,
    source_options,
)

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint
    from surgery.matching.lines.renames import Renames
    from surgery.proof import Proof
    from surgery.transfers.tofile import FileTransfer


@click.command(
    epilog="""\b
Examples:
  surgery transfer old.pt timm:resnet50 --dry-run
  surgery transfer old.pt timm:resnet50 --num-classes 10 -o new.safetensors
  surgery transfer last.ckpt models.py:make_net --arg width=64 --num-classes 5
  surgery transfer run.pth.tar timm:convnext_tiny --key state_dict_ema
  surgery transfer hf_vit/ vit_base_patch16_224 --match structure
  surgery transfer old.safetensors like:new.safetensors --map renames.txt --strict
  surgery transfer old.pth timm:vgg16_bn --source-arch torchvision:vgg16_bn --verify
  surgery transfer big.index.json timm:vit_huge_patch14_224 --max-shard-size 1GB
  surgery transfer vit.pt vit_small_patch16_384 --on-mismatch adapt
  surgery transfer vit.pt vit_small_patch16_224 --adapt 'pos_embed=pos-embed:prefix=1'

\b
A rename file has one `pattern -> replacement` a line:
  encoder -> backbone
  layers.*.attn -> blocks.*.attention
  ^blocks_(\\d+) -> blocks.\\1
"""
)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new_arch", type=ArchitectureName())
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The new file, .safetensors or .pt by its suffix.  [default: ./ARCH.safetensors]",
)
@build_options
@click.option(
    "--match",
    type=click.Choice(["names", "structure"]),
    default="names",
    show_default=True,
    help="How tensors are brought together.",
)
@hint_option
@click.option("--map", "renames", type=click.Path(path_type=Path), help="A rename file.")
@click.option(
    "--on-mismatch",
    type=click.Choice(["keep", "adapt"]),
    default="keep",
    show_default=True,
    help="What has another shape stays fresh, or is computed where an adapter fits.",
)
@click.option(
    "--adapt",
    "adapters",
    multiple=True,
    metavar="PATTERN=ADAPTER[:K=V,...]",
    help="Compute these tensors so, such as pos_embed=pos-embed; may be repeated.",
)
@key_option
@min_loaded_option
@click.option(
    "--keep-open",
    is_flag=True,
    help="Accept that what structure leaves open keeps its initial values.",
)
@click.option("--strict", is_flag=True, help="Accept no difference but --adapt.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of fresh initial values.",
)
@source_options
@proof_options
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option(
    "--why",
    metavar="SELECTOR",
    help="Show where these tensors of NEW-ARCH come from and why, and write nothing.",
)
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@shard_option
@output_options
def transfer(
    old: Path,
    new_arch: str,
    out: Path | None,
    arguments: dict[str, Any],
    num_classes: int | None,
    match: str,
    hints: tuple[str, ...],
    renames: Path | None,
    on_mismatch: str,
    adapters: tuple[str, ...],
    key: str | None,
    min_loaded: float,
    keep_open: bool,
    strict: bool,
    seed: int,
    verify: bool,
    source_arch: str | None,
    source_arguments: dict[str, Any],
    shape: tuple[int, ...] | None,
    dry_run: bool,
    why: str | None,
    force: bool,
    max_shard_bytes: int | None,
    as_json: bool,
) -> None:
    """Move the weights in OLD into NEW-ARCH and write the result as a new file.

    OLD is a checkpoint, a sharded index or the folder that holds one. NEW-ARCH is timm:NAME,
    torchvision:NAME, package.module:factory, path/file.py:factory or like:other.safetensors
    (like:other.pt#KEY where that holds several state dicts); a bare name is timm's if timm has
    it, else torchvision's.

    With --match structure names need not agree: two implementations of one network are brought
    together by shapes, nesting and what their names mean. What nothing tells apart is left open,
    and nothing is written until a --hint settles it or --keep-open accepts it. `surgery map`
    prints the result as a rename file.

    Tensors of the new architecture that OLD does not have get the architecture's own initial
    values. The output appears whole or not at all.

    With --verify the source architecture and the new one, both with the planned weights, are run
    on the same input in float64, and every tensor's effect on them is compared. Where they do
    not agree nothing is written.
    """
    _check_proof_options(verify, match, source_arch, source_arguments, shape)
    dry_run = dry_run or why is not None
    if out is not None and not dry_run:
        refuse_outputs(out, max_shard_bytes, force)
    note_shard(old)
    source, map_read = _read(old, key, renames)
    with progress(f"building {new_arch}"):
        from surgery.networks.architectures import find_architecture
        from surgery.transfers.tofile import plan_file_transfer

        architecture = find_architecture(new_arch)
        if out is None and not dry_run:
            out = Path(f"{architecture.stem}.safetensors")
            refuse_outputs(out, max_shard_bytes, force)
        job = plan_file_transfer(
            source,
            architecture,
            arguments=arguments,
            num_classes=num_classes,
            match=match,
            renames=map_read,
            hints=hints,
            source_architecture=find_architecture(source_arch) if source_arch else None,
            source_arguments=source_arguments,
            on_mismatch=on_mismatch,
            adapters=adapters,
            seed=seed,
        )
    what = ", ".join(filter(None, (source.format, source.key)))
    heading = f"{old} ({what}) -> {architecture}"

    def prove() -> Proof | None:
        if source_arch is None or not verify:
            return None
        return _prove(job, source_arch, source_arguments, arguments, num_classes, shape, as_json)

    refuse = partial(
        job.plan.refuse_unless, min_loaded=min_loaded, strict=strict, keep_open=keep_open
    )
    if why is not None:
        _show_origins(job, why, as_json)
    elif out is None or dry_run:
        _show_plan(job, heading, refuse, prove, as_json)
    else:
        refuse()
        _write(job, out, heading, strict, max_shard_bytes, prove(), as_json)


def _check_proof_options(
    verify: bool,
    match: str,
    source_arch: str | None,
    source_arguments: dict[str, Any],
    shape: tuple[int, ...] | None,
) -> None:
    from surgery.errors import SurgeryError

    if verify and source_arch is None:
        raise SurgeryError(
            "--verify runs the network that OLD was saved from beside the new one; name it with "
            "--source-arch, even where it is the same architecture"
        )
    if shape and not verify:
        raise SurgeryError("--input is for --verify")
    check_source_options(source_arch, source_arguments)
    if source_arch and not verify and match != "structure":
        raise SurgeryError("--source-arch is for --verify and for --match structure")


def _prove(
    job: FileTransfer,
    source_arch: str,
    source_arguments: dict[str, Any],
    arguments: dict[str, Any],
    num_classes: int | None,
    shape: tuple[int, ...] | None,
    as_json: bool,
) -> Proof:
    """A person sees the report of a proof that fails, too."""
    from surgery.networks.architectures import find_architecture
    from surgery.proof import prove_file_transfer, refuse_unproven
    from surgery.report.proof import proof_report

    with progress(f"running {source_arch} and {job.architecture.label}"):
        proof = prove_file_transfer(
            job,
            find_architecture(source_arch),
            source_arguments=source_arguments,
            arguments=arguments,
            num_classes=num_classes,
            shape=shape,
        )
    if not as_json:
        print_report(proof_report(proof))
        click.echo()
    refuse_unproven(proof)
    return proof


def _read(old: Path, key: str | None, renames: Path | None) -> tuple[Checkpoint, Renames | None]:
    with progress(f"reading {old}"):
        from surgery.checkpoint import open_checkpoint
        from surgery.matching.lines.renames import read_renames

        return open_checkpoint(old, key=key), read_renames(renames)


def _show_origins(job: FileTransfer, selector: str, as_json: bool) -> None:
    from surgery.report.transfers import origin_report
    from surgery.transfers.plan import step_to_dict

    if as_json:
        print_json({"steps": [step_to_dict(step) for step in job.plan.select(selector)]})
    else:
        print_report(origin_report(job.plan, selector))


def _show_plan(
    job: FileTransfer,
    heading: str,
    refuse: Callable[[], None],
    prove: Callable[[], Proof | None],
    as_json: bool,
) -> None:
    """A person sees the plan that is refused, too; the one JSON object is then the error."""
    from surgery.report.transfers import plan_report

    if not as_json:
        print_report(plan_report(job.plan, heading=(heading,)))
    refuse()
    proof = prove()
    if as_json:
        label = job.architecture.label
        print_json({"architecture": label, "plan": job.plan.to_dict(), **_proof_json(proof)})


def _proof_json(proof: Proof | None) -> dict[str, Any]:
    return {"proof": proof.to_dict()} if proof else {}


def _write(
    job: FileTransfer,
    out: Path,
    heading: str,
    strict: bool,
    max_shard_bytes: int | None,
    proof: Proof | None,
    as_json: bool,
) -> None:
    from surgery.report.transfers import outcome_report

    with byte_progress(f"writing {out}", job.nbytes) as done:
        outcome = job.write(out, strict=strict, max_shard_bytes=max_shard_bytes, progress=done)
    if as_json:
        files = [str(file) for file in outcome.files]
        print_json(
            {
                "architecture": job.architecture.label,
                "output": files[-1],
                "files": files,
                **outcome.to_dict(),
                **_proof_json(proof),
            }
        )
        return
    print_report(outcome_report(outcome, heading=(heading,)))
    print_written(outcome.files)
