"""A checkpoint and an architecture -> a new file: the transfer that needs no live model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.architectures import Architecture, Blueprint, blueprint
from surgery.checkpoint.places import Place
from surgery.record import Record
from surgery.transfers.apply import TransferOutcome, apply_to_file
from surgery.transfers.decide import make_plan
from surgery.transfers.plan import TransferPlan
from surgery.transfers.renames import RenamesLike, read_renames
from surgery.transfers.source import Source, names_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FileTransfer:
    """A decided transfer into a file: the plan can be looked at, :meth:`write` does it."""

    source: Source
    architecture: Architecture
    target: Blueprint
    plan: TransferPlan

    def write(self, path: str | Path, *, strict: bool = False) -> TransferOutcome:
        """Write the new file, whole or not at all, with a record of every tensor's status."""
        return apply_to_file(
            self.plan,
            self.source,
            _frame(self.target, self.plan.names("fresh")),
            path,
            metadata=Record(
                self.architecture.label,
                {step.target.name: step.status for step in self.plan.steps},
                self.target.spec,
            ).to_metadata(),
            strict=strict,
        )


def plan_file_transfer(
    source: Source,
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    match: str = "names",
    renames: RenamesLike = None,
    seed: int = 0,
) -> FileTransfer:
    """Build the architecture without its initial values and decide what goes where.

    ``arguments``, ``num_classes`` and ``seed`` as for :func:`surgery.architectures.blueprint`.
    """
    target = blueprint(architecture, arguments=arguments, num_classes=num_classes, seed=seed)
    plan = make_plan(names_of(source), target.spec, match=match, renames=read_renames(renames))
    return FileTransfer(source, architecture, target, plan)


def _frame(target: Blueprint, fresh: Iterable[str]) -> OrderedDict[str, Any]:
    """The whole state dict, module versions included; only ``fresh`` tensors have values."""
    frame: OrderedDict[str, Any] = OrderedDict.fromkeys(target.spec.by_name)
    frame.update(target.extras)
    frame.update((name, _value(value)) for name, value in target.initial(fresh).items())
    versions = {path: {"version": version} for path, version in target.versions.items()}
    frame._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return frame


def _value(value: torch.Tensor | Place) -> torch.Tensor:
    if not isinstance(value, Place):
        return value
    from surgery.checkpoint.tensors import read_tensor

    with value.region.source.opened() as reader:
        return read_tensor(value, reader)
