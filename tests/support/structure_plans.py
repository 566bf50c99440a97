"""Plans made of what structure decides, and plans that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.checkpoint.weights import Tensors, names_of
from surgery.matching.operations import Operation, Piece
from surgery.matching.structure import StructureStep, match_structure
from surgery.networks.describe import describe
from surgery.specs import TensorSpec
from surgery.transfers.plan import Assemble, KeepInit, Load, Step, TransferPlan, Unused

if TYPE_CHECKING:
    from torch import nn

#: What no checkpoint has to hold, by the end of its name.
_EXPECTED = (
    *("num_batches_tracked", "relative_position_index", "relative_coords_table"),
    *("attn_mask", "position_ids"),
)


def structure_plan(source: nn.Module, target: nn.Module) -> TransferPlan:
    """The plan that names and shapes alone decide."""
    names, spec = names_of(Tensors(source.state_dict())), describe(target)
    found = match_structure(names, spec)
    made = {step.target.name: _step(step) for step in found.steps}
    used = {s.name for step in made.values() for s in step.sources}
    return TransferPlan(
        tuple(made.get(tensor.name) or _kept(tensor) for tensor in spec.tensors),
        tuple(
            Unused(s, "nothing takes it", s.name.endswith(_EXPECTED))
            for s in names.specs
            if s.name not in used
        ),
        tuple(name for name, _ in target.named_parameters()),
        spec.ties,
    )


def _step(step: StructureStep) -> Load | Assemble:
    operation = step.operation
    if operation.name(step.target.shape) == "copy":
        return Load(step.target, operation.sources[0], evidence=step.evidence)
    return Assemble(step.target, operation, evidence=step.evidence)


def _kept(tensor: TensorSpec) -> KeepInit:
    return KeepInit(tensor, "no counterpart", expected=tensor.name.endswith(_EXPECTED))


def with_pieces(
    plan: TransferPlan, name: str, change: Callable[[tuple[Piece, ...]], tuple[Piece, ...]]
) -> TransferPlan:
    """The plan with other pieces in the step of the target ``name``."""

    def changed(step: Step) -> Step:
        if step.target.name != name:
            return step
        assert isinstance(step, Assemble)
        pieces = change(step.operation.pieces)
        return Assemble(step.target, Operation(pieces, step.operation.transposed))

    return replace(plan, steps=tuple(map(changed, plan.steps)))
