"""A request -> a plan that can be carried out, with both of its ends open."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from surgery.checkpoint.weights import Weights, names_of, open_source
from surgery.errors import SurgeryError
from surgery.matching.by_structure import UNKNOWN, Code
from surgery.networks.architectures import find_architecture
from surgery.networks.blueprints import blueprint
from surgery.networks.unfilled import Blueprint
from surgery.specs import ModelSpec, SourceSpec, specs_in
from surgery.transfers.decide import decide
from surgery.transfers.plan import Ends, TransferPlan
from surgery.transfers.refusal import refuse
from surgery.transfers.request import TransferRequest
from surgery.transfers.target import is_module, open_target
from surgery.wrappers import unwrap_name, unwrap_names

if TYPE_CHECKING:
    from surgery.checkpoint.weights import SourceLike


def plan(request: TransferRequest) -> TransferPlan:
    """Open both ends and decide where every tensor of the target comes from.

    Nothing is read or written but names. Raises as :func:`surgery.transfers.decide.decide` does,
    and :class:`~surgery.errors.CheckpointError`, :class:`~surgery.errors.ArchitectureError` or
    :class:`~surgery.errors.SurgeryError` for an end that cannot be opened.
    """
    return plan_between(request, _open_source(request), open_target(request))


def plan_between(
    request: TransferRequest, source: Weights | SourceSpec, target: Blueprint
) -> TransferPlan:
    """The same between ends that are open."""
    names = source if isinstance(source, SourceSpec) else names_of(source)

    def planned(wanted: TransferRequest) -> TransferPlan:
        code = _code(wanted, names, target) if wanted.match == "structure" else UNKNOWN
        return decide(wanted, ends, code)

    ends = Ends(source, names, target, planned, refuse)
    return planned(request)


def _open_source(request: TransferRequest) -> Weights | SourceSpec:
    source = request.source
    if isinstance(source, SourceSpec):
        return source
    if (specs := specs_in(source)) is not None:
        return SourceSpec(specs)
    return open_source(cast("SourceLike", source), request.key)


def _code(request: TransferRequest, names: SourceSpec, target: Blueprint) -> Code:
    """What is known of the code of both sides; orders are looked for where they matter."""
    order = target.find_order
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
    _refuse_other(names, saved.spec, architecture.label)
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
