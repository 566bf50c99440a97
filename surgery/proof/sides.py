"""Two models and a plan -> two sides that take the same tensors of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.errors import SurgeryError
from surgery.networks.describe import describe
from surgery.proof.running import Side
from surgery.proof.values import is_inexact
from surgery.specs import SourceSpec, TensorSpec
from surgery.transfers.decide import make_plan
from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load, Step, TransferPlan, shape_text

if TYPE_CHECKING:
    import torch
    from torch import nn


def make_sides(
    source: nn.Module,
    target: nn.Module,
    plan: TransferPlan,
    labels: tuple[str, str],
    ties: Iterable[tuple[str, ...]] = (),
    tensor: Callable[[str], torch.Tensor] | None = None,
) -> tuple[Side, Side]:
    """How both models' tensors are made of the checkpoint's, and what only one of them has.

    ``plan`` is the target's; the source's own is found by names. ``ties`` are the checkpoint's
    names of one tensor, and ``tensor`` its values: those of ``source`` where that is None.
    Raises :class:`~surgery.errors.SurgeryError` where the source model has
    no place for a tensor that the plan uses: it is not the checkpoint's architecture.
    """
    specs = [s for step in plan.steps if isinstance(step, Load | Assemble) for s in step.sources]
    adapted = [step for step in plan.steps if isinstance(step, Adapt)]
    computed_from = {spec: step.adapter for step in adapted for spec in step.sources}
    left = [unused.source for unused in plan.unused]
    ties = tuple(ties)
    names = SourceSpec(tuple(dict.fromkeys((*specs, *computed_from, *left))), ties)
    own_plan, note = _own_plan(names, source, specs, labels[0])
    # An index that the target computes is computed by the source too: in float64, on both sides.
    used = {spec.name for spec in specs}
    used |= {name for group in ties if used & {*group} for name in group}
    ours = {step.target.name: step for step in own_plan.steps}
    placed = {name: step.source.name for name, step in ours.items() if step.source}
    tensor = tensor or _values_in(source, {at: name for name, at in placed.items()})
    theirs = (*_ties_of(own_plan), *_ties_of(plan))
    one = _one_name_each((*ties, *(_equal(names, tensor) for names in theirs)))
    expected = {unused.source.name for unused in plan.unused if unused.expected} - used
    old, new = (
        _side(labels[0], source, ours, one, used, expected),
        _side(labels[1], target, plan.by_target, one, used, set()),
    )
    by_name = {s.name: adapter for s, adapter in computed_from.items() if s.name not in used}
    before = {name: by_name[at] for name, at in placed.items() if at in by_name}
    return (
        replace(old, adapted=before, note=note),
        replace(new, adapted={step.target.name: step.adapter for step in adapted}),
    )


def _side(
    label: str,
    model: nn.Module,
    steps: Mapping[str, Step],
    one: Mapping[str, str],
    used: set[str],
    expected: set[str],
) -> Side:
    taken: dict[str, Load | Assemble] = {}
    foreign = set()
    for name, step in steps.items():
        if isinstance(step, Load | Assemble) and all(s.name in used for s in step.sources):
            taken[name] = _renamed(step, one)
        elif not _is_expected(step, expected) and step.target.is_floating:
            foreign.add(name)
    side = Side(label, model, taken, frozenset())
    own = {id(side.live[name]) for name in taken if name in side.live}
    left = (name for name in foreign if name in side.live and id(side.live[name]) not in own)
    return Side(label, model, taken, frozenset(left))


def _renamed(step: Load | Assemble, one: Mapping[str, str]) -> Load | Assemble:
    """The step with one name for every tensor that has several."""

    def renamed(spec: TensorSpec) -> TensorSpec:
        return replace(spec, name=one.get(spec.name, spec.name))

    if isinstance(step, Load):
        return replace(step, source=renamed(step.source))
    pieces = tuple(
        replace(piece, source=renamed(piece.source)) if piece.source else piece
        for piece in step.operation.pieces
    )
    return replace(step, operation=replace(step.operation, pieces=pieces))


def _is_expected(step: Step, expected: set[str]) -> bool:
    if isinstance(step, KeepInit):
        return step.expected
    return isinstance(step, Load) and step.source.name in expected


def _ties_of(plan: TransferPlan) -> list[tuple[str, ...]]:
    """The checkpoint's names that end, each by itself and whole, in one tensor of the target."""
    whole = {step.target.name: step for step in plan.steps if _is_whole(step)}
    groups = [
        [whole[name].sources[0].name for name in names if name in whole] for names in plan.ties
    ]
    return [tuple(dict.fromkeys(names)) for names in groups if len(set(names)) > 1]


def _values_in(model: nn.Module, places: Mapping[str, str]) -> Callable[[str], torch.Tensor]:
    live = Side("", model, {}).live
    return lambda name: live[places[name]]


def _equal(names: tuple[str, ...], tensor: Callable[[str], torch.Tensor]) -> tuple[str, ...]:
    """The first of the names and those of equal values: one tensor cannot hold two."""
    import torch

    first = tensor(names[0])
    return tuple(name for name in names if torch.equal(tensor(name), first))


def _is_whole(step: Step) -> bool:
    if isinstance(step, Assemble):
        return len(step.operation.pieces) == 1 and step.operation.pieces[0].whole
    return isinstance(step, Load)


def _one_name_each(ties: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Every name of a tie to one of them, ties that share a name joined."""
    one: dict[str, str] = {}
    for names in ties:
        known = {one.get(name, name) for name in names}
        first = min(known)
        for name in (*names, *(n for n, other in one.items() if other in known)):
            one[name] = first
    return one


def _own_plan(
    names: SourceSpec, source: nn.Module, used: list[TensorSpec], label: str
) -> tuple[TransferPlan, str]:
    """The plan that gives the source model the checkpoint's tensors, and what to say of it.

    A library may write files under other names than its code has: then structure finds the places.
    """
    spec = describe(source)
    plan = make_plan(names, spec)
    lost = _lost(plan, used)
    if not lost:
        return plan, ""
    told = make_plan(names, spec, match="structure")
    if _lost(told, used):
        _refuse_other(plan, lost, label)
    return told, (
        f"{len(lost)} tensors have other names in the checkpoint than in {label}, and were given "
        "their places there by structure; a mistake in that would show unless both sides have it"
    )


def _lost(plan: TransferPlan, used: list[TensorSpec]) -> list[TensorSpec]:
    """What the model has no place for."""
    placed = {
        spec.name
        for step in plan.steps
        if isinstance(step, Load | Assemble)
        for spec in step.sources
    }
    placed |= {unused.source.name for unused in plan.unused if unused.expected}
    return [spec for spec in dict.fromkeys(used) if spec.name not in placed]


def _refuse_other(plan: TransferPlan, lost: list[TensorSpec], label: str) -> None:
    misfit = {
        step.source.name: step for step in plan.steps if isinstance(step, KeepInit) and step.source
    }
    with_arguments = ", with its arguments (--source-arg num_classes=10)" if misfit else ""
    raise SurgeryError(
        f"the source is no checkpoint of {label}: {len(lost)} of the tensors that are transferred "
        "have no place in it; name the architecture that it was saved from (--source-arch)"
        f"{with_arguments}",
        [_why_lost(spec, misfit) for spec in lost[:8]],
    )


def _why_lost(spec: TensorSpec, misfit: Mapping[str, KeepInit]) -> str:
    if spec.name in misfit:
        place = misfit[spec.name].target
        return f"{spec.name} is {shape_text(spec)}, and {shape_text(place)} there"
    return f"{spec.name} {shape_text(spec)}"


def own_values(
    sides: tuple[Side, Side], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The checkpoint's values as the target will have them: cast to its dtype, then widened.

    What the cast rounds is the file's affair and no difference between two networks. A source
    that targets of several dtypes take is rounded by all of them.
    """
    dtypes: dict[str, dict[str, None]] = {}
    for step in sides[1].steps.values():
        for spec in step.sources:
            dtypes.setdefault(spec.name, {})[step.target.dtype] = None
    return {name: _rounded(tensors[name].detach(), dtypes[name]) for name in dtypes}


def _rounded(value: torch.Tensor, dtypes: Iterable[str]) -> torch.Tensor:
    import torch

    if not is_inexact(value):
        return value
    for dtype in (getattr(torch, name) for name in dtypes):
        value = value.to(dtype if value.is_complex() or not dtype.is_complex else dtype.to_real())
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
