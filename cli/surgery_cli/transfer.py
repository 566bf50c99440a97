"""``surgery transfer``: an old checkpoint into a new architecture, as a new file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import SurgeryError
from surgery_cli.console import (
    note_shard,
    print_json,
    print_note,
    print_report,
    print_text,
    print_written,
    progress,
    show,
)
from surgery_cli.options import (
    FILE,
    NEW_FILE,
    ArchitectureName,
    MappingFile,
    build_options,
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
    from surgery.proof import Proof
    from surgery.transfers.plan import TransferPlan


@click.command(
    epilog="""\b
Examples:
  surgery transfer old.pt timm:resnet50 --dry-run
  surgery transfer old.pt timm:resnet50 --num-classes 10 -o new.safetensors
  surgery transfer last.ckpt models.py:make_net --arg width=64 --num-classes 5
  surgery transfer run.pth.tar timm:convnext_tiny --key state_dict_ema
  surgery transfer old.pth timm:resnet101 --fresh 'layer3.[6-9], layer3.1?, layer3.2?'
  surgery transfer vit.pt vit_small_patch16_384 --resize pos_embed
  surgery transfer vit.pt vit_small_patch16_224 --resize 'pos_embed=pos-embed:prefix=1'
  surgery transfer hf_vit/ vit_base_patch16_224 --match structure
  surgery transfer old.safetensors like:new.safetensors --mapping names.map --strict
  surgery transfer old.pth timm:vgg16_bn --source-arch torchvision:vgg16_bn --verify
  surgery transfer big.index.json timm:vit_huge_patch14_224 --max-shard-size 1GB

\b
A mapping file has one `pattern -> replacement` a line:
  encoder -> backbone
  layers.*.attn -> blocks.*.attention
  ^blocks_(\\d+) -> blocks.\\1
  aux_head -> (unused)
"""
)
@click.argument("old", type=FILE)
@click.argument("new_arch", type=ArchitectureName())
@click.option(
    "-o",
    "--out",
    type=NEW_FILE,
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
@click.option(
    "--mapping", type=MappingFile(path_type=Path), help="A file of lines `pattern -> replacement`."
)
@hint_option
@click.option(
    "--resize",
    multiple=True,
    metavar="[PATTERN=]METHOD[:K=V,...]",
    help="Make tensors of another shape: auto, pos_embed, pos_embed=pos-embed:new=7x28; may be "
    "repeated.",
)
@click.option(
    "--fresh",
    multiple=True,
    metavar="PATTERN",
    help="Accept that these tensors keep their initial values; may be repeated.",
)
@min_loaded_option
@click.option(
    "--keep-open",
    is_flag=True,
    help="Accept that what structure leaves open keeps its initial values.",
)
@click.option(
    "--strict", is_flag=True, help="Accept no difference but what --resize and --fresh name."
)
@click.option("--dtype", metavar="DTYPE", help="Of all real floating tensors, such as bfloat16.")
@key_option
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
    verify: bool,
    shape: tuple[int, ...] | None,
    dry_run: bool,
    why: str | None,
    force: bool,
    max_shard_bytes: int | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Move the weights in OLD into NEW-ARCH, as a new file.

    OLD is a checkpoint, a sharded index or the folder that holds one. NEW-ARCH is timm:NAME,
    torchvision:NAME, package.module:factory, path/file.py:factory or like:other.safetensors
    (like:other.pt#KEY where that holds several state dicts); a bare name is timm's if timm has
    it, else torchvision's.

    Every tensor outside the head must come from OLD; what does not is refused, with the options
    that would load it or accept its initial values. --min-loaded asks for a share instead. The
    output appears whole or not at all.

    With --match structure names need not agree: two implementations of one network are brought
    together by shapes, nesting and what their names mean. What nothing distinguishes stays open,
    and nothing is written until a --hint decides it or --keep-open accepts it. `surgery map`
    prints the result as a mapping file.

    With --verify the source architecture and the new one, both with the planned weights, are run
    on the same input in float64, and every tensor's effect on them is compared. Where they do
    not agree nothing is written.
    """
    from surgery.networks.architectures import find_architecture
    from surgery.transfers.planning import plan
    from surgery.transfers.request import TransferRequest

    _check_proof_options(verify, wanted, shape)
    request = TransferRequest(source=old, target=new_arch, **wanted)
    architecture = find_architecture(new_arch)
    shown_only = dry_run or why is not None
    written = None if shown_only else out or Path(f"{architecture.stem}.safetensors")
    if written is not None:
        refuse_outputs(written, max_shard_bytes, force)
    note_shard(old)
    with progress(f"reading {old}, building {new_arch}"):
        planned = plan(request)
    if request.keep_open and not planned.open:
        print_note("note: --keep-open changes nothing, since no tensor is left open")
    heading = (f"{planned.source_label} -> {architecture}",)
    beside: dict[str, Any] = {"architecture": architecture.label}
    if why is not None:
        from surgery.report.transfers import origins_report

        steps = planned.select(why)
        if as_json:
            print_json({"steps": [step.to_dict() for step in steps]})
        else:
            print_report(origins_report(why, steps))
        return
    if written is None and not as_json:
        show(planned, as_json=False, heading=heading)  # a person sees what is refused, too
    planned.refuse_unaccepted()
    if verify:
        beside["proof"] = _prove(planned, shape, as_json).to_dict()
    if written is None:
        if as_json:
            print_json({**beside, "plan": planned.to_dict()})
        return
    with progress(f"writing {written}", planned.nbytes) as done:
        outcome = planned.write(written, max_shard_bytes=max_shard_bytes, progress=done)
    beside["output"] = str(outcome.files[-1])
    show(outcome, as_json=as_json, beside=beside, heading=heading)
    if not as_json:
        print_written(outcome.files)


def _check_proof_options(
    verify: bool, wanted: Mapping[str, Any], shape: tuple[int, ...] | None
) -> None:
    if verify and wanted["source_arch"] is None:
        raise SurgeryError(
            "--verify runs the network that OLD was saved from beside the new one; name it with "
            "--source-arch, even where it is the same architecture"
        )
    if shape and not verify:
        raise SurgeryError("--input is for --verify")
    if wanted["source_arch"] and not verify and wanted["match"] != "structure":
        raise SurgeryError("--source-arch is for --verify and for --match structure")


def _prove(planned: TransferPlan, shape: tuple[int, ...] | None, as_json: bool) -> Proof:
    """A person sees the report of a proof that fails, too."""
    from surgery.proof import refuse_unproven
    from surgery.proof.verify import prove_plan

    with progress("running both networks"):
        proof = prove_plan(planned, shape=shape)
    if not as_json:
        show(proof, as_json=False)
        print_text("")
    refuse_unproven(proof)
    return proof
