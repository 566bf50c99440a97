"""A request -> a plan that can be carried out, with both of its ends open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from surgery.checkpoint.holding import Checkpoint
from surgery.checkpoint.progress import Progress
from surgery.checkpoint.weights import Weights, names_of, open_source
from surgery.errors import SurgeryError
from surgery.matching.by_structure import UNKNOWN, Code
from surgery.networks.architectures import find_architecture
from surgery.networks.blueprints import blueprint
from surgery.networks.unfilled import Blueprint
from surgery.specs import ModelSpec, SourceSpec, specs_in
from surgery.transfers.decide import decide
from surgery.transfers.plan import TransferOutcome, TransferPlan
from surgery.transfers.refusal import refuse
from surgery.transfers.request import TransferRequest
from surgery.transfers.target import is_module, open_target
from surgery.transfers.tofile import write_plan
from surgery.wrappers import unwrap_name, unwrap_names

if TYPE_CHECKING:
    from torch import nn

    from surgery.checkpoint.weights import SourceLike


def plan(request: TransferRequest) -> TransferPlan:
    """Open both ends and decide where every tensor of the target comes from.

    Nothing is read or written but names. Raises as :func:`surgery.transfers.decide.decide` does,
    and :class:`~surgery.errors.CheckpointError`, :class:`~surgery.errors.ArchitectureError` or
    :class:`~surgery.errors.SurgeryError` for an end that cannot be opened.
    """
    source = _open_source(request)
    names = source if isinstance(source, SourceSpec) else names_of(source)
    return OpenedEnds(source, names, open_target(request)).plan(request)


def _open_source(request: TransferRequest) -> Weights | SourceSpec:
    source = request.source
    if isinstance(source, SourceSpec):
        return source
    if (specs := specs_in(source)) is not None:
        return SourceSpec(specs)
    return open_source(cast("SourceLike", source), request.key)


@dataclass(frozen=True)
class OpenedEnds:
    """What holds the old weights (or what only their names and shapes are known of) and what takes
    them, see :class:`~surgery.transfers.plan.Ends`.
    """

    source: Weights | SourceSpec
    names: SourceSpec
    target: Blueprint

    @property
    def label(self) -> str:
        return self.target.label

    @property
    def source_kind(self) -> str:
        if not isinstance(self.source, Checkpoint):
            return ""
        return ", ".join(filter(None, (self.source.format, self.source.key)))

    def plan(self, request: TransferRequest) -> TransferPlan:
        code = self._code(request) if request.match == "structure" else UNKNOWN
        return decide(request, self.names, self.target, self, code)

    def refuse(self, plan: TransferPlan) -> None:
        refuse(plan)

    def apply(self, plan: TransferPlan, model: nn.Module) -> TransferOutcome:
        from surgery.transfers.apply import apply_to_model

        self.refuse(plan)
        return apply_to_model(plan, self.readable, model, strict=plan.request.strict)

    def write(
        self, plan: TransferPlan, path: Path, max_shard_bytes: int | None, progress: Progress
    ) -> TransferOutcome:
        self.refuse(plan)
        return write_plan(
            plan,
            self.readable,
            self.target,
            path,
            strict=plan.request.strict,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )

    @property
    def readable(self) -> Weights:
        """The old weights with their values; SurgeryError where only names are known."""
        if isinstance(self.source, SourceSpec):
            raise SurgeryError(
                "this plan was made from names and shapes alone; make it from the file or the "
                "state dict whose values are to be moved"
            )
        return self.source

    def _code(self, request: TransferRequest) -> Code:
        """What is known of the code of both sides; orders are looked for where they matter."""
        order = self.target.find_order
        if is_module(request.source):
            if request.source_arch is not None:
                raise SurgeryError(
                    "source_arch (--source-arch) names what a file was saved from, and the source "
                    "is a live model"
                )
            from surgery.networks.describe import blueprint_of

            live = blueprint_of(request.source)
            return Code(live.spec, live.find_order, order)
        if request.source_arch is None:
            return Code(target_order=order)
        architecture = find_architecture(request.source_arch)
        saved = blueprint(architecture, arguments=request.source_arguments)
        _refuse_other(self.names, saved.spec, architecture.label)
        return Code(saved.spec, saved.find_order, order)


def _refuse_other(source: SourceSpec, saved: ModelSpec, label: str) -> None:
    """Raise SurgeryError where a checkpoint and what it is said to be saved from share nothing."""
    known = {(unwrap_name(spec.name), spec.shape) for spec in saved.tensors}
    names = unwrap_names(spec.name for spec in source.specs)
    if not any((names[spec.name], spec.shape) in known for spec in source.specs):
        raise SurgeryError(
            f"the source is no checkpoint of {label}: not one tensor has a name and a shape of it; "
            "name the architecture that it was saved from (--source-arch), or none"
        )
