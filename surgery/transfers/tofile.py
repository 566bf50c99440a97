"""A checkpoint and an architecture -> a new file: the transfer that needs no live model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.architectures import Architecture, Blueprint, blueprint
from surgery.checkpoint.progress import Progress, untold
from surgery.record import Record
from surgery.transfers.adapters.asked import AdaptersLike, read_asked
from surgery.transfers.apply import TransferOutcome, apply_to_file
from surgery.transfers.by_structure import HintsLike
from surgery.transfers.decide import make_plan
from surgery.transfers.plan import TransferPlan
from surgery.transfers.renames import RenamesLike, read_renames
from surgery.transfers.source import Source, names_of


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

        For the arguments see :func:`surgery.transfers.apply.apply_to_file`.
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
    on_mismatch: str = "keep",
    adapters: AdaptersLike = None,
    seed: int = 0,
) -> FileTransfer:
    """Build the architecture without its initial values and decide what goes where.

    ``arguments``, ``num_classes`` and ``seed`` as for :func:`surgery.architectures.blueprint`,
    the others as for :func:`surgery.transfers.plan_transfer`.
    """
    target = blueprint(architecture, arguments=arguments, num_classes=num_classes, seed=seed)
    plan = make_plan(
        names_of(source),
        target.spec,
        match=match,
        renames=read_renames(renames),
        hints=hints,
        on_mismatch=on_mismatch,
        adapters=read_asked(adapters),
    )
    return FileTransfer(source, architecture, target, plan)
