"""A checkpoint and an architecture -> a new file: the transfer that needs no live model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.weights import Source, names_of
from surgery.checkpoint.writer import write
from surgery.checkpoint.writing.casting import Casts, refuse_broken
from surgery.checkpoint.writing.draft import Draft
from surgery.errors import SurgeryError
from surgery.matching.by_structure import UNKNOWN, Code, HintsLike
from surgery.matching.lines.renames import RenamesLike, read_renames
from surgery.networks.architectures import Architecture, Blueprint, blueprint
from surgery.record import Record
from surgery.specs import ModelSpec
from surgery.transfers.decide import make_plan
from surgery.transfers.gathering import gathered, keeping, refuse_torn_ties
from surgery.transfers.outcome import TransferOutcome
from surgery.transfers.plan import TransferPlan
from surgery.transfers.resize.asked import AdaptersLike, read_asked
from surgery.wrappers import unwrap_name, unwrap_names


@dataclass(frozen=True)
class FileTransfer:
    """A decided transfer into a file: the plan can be looked at, :meth:`write` does it."""

    source: Source
    architecture: Architecture
    target: Blueprint
    plan: TransferPlan

    @property
    def nbytes(self) -> int:
        """Bytes of the values to be written; tied tensors once."""
        repeated = {name for names in self.plan.ties for name in names[1:]}
        return sum(s.target.nbytes for s in self.plan.steps if s.target.name not in repeated)

    def write(
        self,
        path: str | Path,
        *,
        strict: bool = False,
        max_shard_bytes: int | None = None,
        progress: Progress = untold,
    ) -> TransferOutcome:
        """Write the new file, whole or not at all, with a record of every tensor's status.

        For the arguments see :func:`apply_to_file`.
        """
        return apply_to_file(
            self.plan,
            self.source,
            self.target,
            path,
            metadata=Record(
                self.architecture.label,
                {step.target.name: step.status for step in self.plan.steps},
                self.target.spec,
            ).to_metadata(),
            strict=strict,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )


def plan_file_transfer(
    source: Source,
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    match: str = "names",
    renames: RenamesLike = None,
    hints: HintsLike = (),
    source_architecture: Architecture | None = None,
    source_arguments: Mapping[str, Any] | None = None,
    on_mismatch: str = "keep",
    adapters: AdaptersLike = None,
    seed: int = 0,
) -> FileTransfer:
    """Build the architecture without its initial values and decide what goes where.

    ``arguments``, ``num_classes`` and ``seed`` as for
    :func:`surgery.networks.architectures.blueprint`, the others as for
    :func:`surgery.transfers.plan_transfer`. ``source_architecture`` is what the source was saved
    from: structure takes its code as evidence.
    """
    target = blueprint(architecture, arguments=arguments, num_classes=num_classes, seed=seed)
    code = UNKNOWN
    if match == "structure":
        code = _code(source, target, source_architecture, source_arguments)
    plan = make_plan(
        names_of(source),
        target.spec,
        match=match,
        renames=read_renames(renames),
        hints=hints,
        code=code,
        on_mismatch=on_mismatch,
        adapters=read_asked(adapters),
    )
    return FileTransfer(source, architecture, target, plan)


def _code(
    checkpoint: Source,
    target: Blueprint,
    source: Architecture | None,
    arguments: Mapping[str, Any] | None,
) -> Code:
    if source is None:
        return Code(target_order=lambda: target.order)
    saved = blueprint(source, arguments=arguments)
    _refuse_other(checkpoint, saved.spec, source)
    return Code(saved.spec, lambda: saved.order, lambda: target.order)


def _refuse_other(checkpoint: Source, saved: ModelSpec, architecture: Architecture) -> None:
    """Raise SurgeryError where a checkpoint and what it is said to be saved from share nothing."""
    known = {(unwrap_name(spec.name), spec.shape) for spec in saved.tensors}
    names = unwrap_names(spec.name for spec in checkpoint.specs)
    if not any((names[spec.name], spec.shape) in known for spec in checkpoint.specs):
        raise SurgeryError(
            f"the source is no checkpoint of {architecture.label}: not one tensor has a name and a "
            "shape of it; name the architecture that it was saved from (--source-arch), or none"
        )


def apply_to_file(
    plan: TransferPlan,
    source: Source,
    target: Blueprint,
    path: str | Path,
    *,
    metadata: Mapping[str, str],
    strict: bool = False,
    max_shard_bytes: int | None = None,
    progress: Progress = untold,
) -> TransferOutcome:
    """Write the plan's tensors as a new file, with the initial values of what stays fresh.

    Nothing is computed but casts, adapters, rows that are joined and what ``target`` computes:
    everything else goes from file to file. The new file appears whole or not at all, in the
    target's dtypes; names of one tied tensor share one tensor. Raises as
    :func:`~surgery.transfers.apply.apply_to_model` does; the old file is then as it was.
    ``max_shard_bytes`` and ``progress`` as for :func:`surgery.checkpoint.writer.write`.
    """
    casts = Casts()
    own = target.initial((*plan.names("fresh"), *keeping(plan)))
    taken = gathered(plan, source, own)
    refuse_torn_ties(plan, taken)
    known = {**own, **taken}
    values = {
        spec.name: casts.cast(spec.name, known[spec.name], spec.dtype)
        for spec in (step.target for step in plan.steps)
    }
    aliases = {name: names[0] for names in plan.ties for name in names[1:]}
    versions = {path: {"version": version} for path, version in target.versions.items()}
    draft = Draft(values, aliases, versions, target.extras, metadata)

    def check() -> None:
        if strict:
            refuse_broken(casts.broken)

    files = write(
        draft, Path(path), max_shard_bytes=max_shard_bytes, before_commit=check, progress=progress
    )
    return TransferOutcome(plan, tuple(casts.broken.items()), files)
