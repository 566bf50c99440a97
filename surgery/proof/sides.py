"""Two models and a plan -> two sides that take the same tensors of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from surgery.errors import SurgeryError
from surgery.networks.describe import describe
from surgery.proof.taking import Taking, is_exact, is_left, resizer_of, taking
from surgery.proof.values import is_inexact
from surgery.specs import SourceSpec, TensorSpec
from surgery.transfers.plan import TransferPlan
from surgery.transfers.planning import plan as plan_of
from surgery.transfers.request import TransferRequest
from surgery.transfers.step import Step
from surgery.wording import counted, shape_text


@dataclass(frozen=True)
class Side:
    """One of the two networks, in float64 and eval mode.

    ``takings`` say how its tensors are made of the checkpoint's; ``foreign`` are tensors of its
    own that have no part in the transfer: a new head here, the old one there. ``resized`` are
    those between which a resizer stands, with its name: they hold other values on either side.
    ``note`` is what a reader has to know of how the takings were found.
    """

    label: str
    model: nn.Module
    takings: Mapping[str, Taking]
    foreign: frozenset[str] = frozenset()
    resized: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def live(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer under each of its names."""
        return tensors_of(self.model)

    def without(self, unheard: Iterable[str]) -> Side:
        """The side with fewer foreign tensors."""
        return replace(self, foreign=self.foreign - frozenset(unheard))


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under each of its names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


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
    specs = [spec for step in plan.steps if is_exact(step) for spec in step.sources]
    by_resizer = [(step, resizer) for step in plan.steps if (resizer := resizer_of(step))]
    computed_from = {spec: resizer for step, resizer in by_resizer for spec in step.sources}
    ties = tuple(ties)
    left = (unused.source for unused in plan.unused)
    names = SourceSpec(tuple(dict.fromkeys((*specs, *computed_from, *left))), ties)
    own_plan, note = _own_plan(names, source, specs, labels[0])
    # An index that the target computes is computed by the source too: in float64, on both sides.
    used = {spec.name for spec in specs}
    used |= {name for group in ties if used & {*group} for name in group}
    placed = {step.target.name: step.source.name for step in own_plan.steps if step.source}
    if tensor is None:
        live = tensors_of(source)
        tensor = {at: live[name] for name, at in placed.items()}.__getitem__
    equal = (_equal(names, tensor) for each in (own_plan, plan) for names in _ties_of(each))
    one = _one_name_each((*ties, *equal))
    expected = {unused.source.name for unused in plan.unused if unused.expected} - used
    by_name = {spec.name: how for spec, how in computed_from.items() if spec.name not in used}
    before = {name: by_name[at] for name, at in placed.items() if at in by_name}
    after = {step.target.name: resizer for step, resizer in by_resizer}
    return (
        replace(_side(labels[0], source, own_plan, one, used, expected), resized=before, note=note),
        replace(_side(labels[1], target, plan, one, used, set()), resized=after),
    )


def _side(
    label: str,
    model: nn.Module,
    plan: TransferPlan,
    one: Mapping[str, str],
    used: set[str],
    expected: set[str],
) -> Side:
    takings: dict[str, Taking] = {}
    foreign = set()
    for step in plan.steps:
        made = taking(step, one)
        if made and all(spec.name in used for spec in step.sources):
            takings[step.target.name] = made
        elif not is_left(step, expected) and step.target.is_floating:
            foreign.add(step.target.name)
    live = tensors_of(model)
    own = {id(live[name]) for name in takings if name in live}
    alone = (name for name in foreign if name in live and id(live[name]) not in own)
    return Side(label, model, takings, frozenset(alone))


def _ties_of(plan: TransferPlan) -> list[tuple[str, ...]]:
    """The checkpoint's names that end, each by itself and whole, in one tensor of the target."""
    whole = {
        step.target.name: made.sources[0]
        for step in plan.steps
        if (made := taking(step, {})) and not made.height
    }
    groups = [dict.fromkeys(whole[name] for name in names if name in whole) for names in plan.ties]
    return [tuple(names) for names in groups if len(names) > 1]


def _equal(names: tuple[str, ...], tensor: Callable[[str], torch.Tensor]) -> tuple[str, ...]:
    """The first of the names and those of equal values: one tensor cannot hold two."""
    first = tensor(names[0])
    return tuple(name for name in names if torch.equal(tensor(name), first))


def _one_name_each(ties: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Every name of a tie to one of them, ties that share a name joined."""
    one: dict[str, str] = {}
    for names in ties:
        known = {one.get(name, name) for name in names}
        one |= dict.fromkeys(
            [*names, *(name for name, other in one.items() if other in known)], min(known)
        )
    return one


def _own_plan(
    names: SourceSpec, source: nn.Module, used: list[TensorSpec], label: str
) -> tuple[TransferPlan, str]:
    """The plan that gives the source model the checkpoint's tensors, and what to say of it.

    A library may write files under other names than its code has: then structure finds the places.
    """
    spec = describe(source)
    plan = plan_of(TransferRequest(source=names, target=spec))
    lost = _lost(plan, used)
    if not lost:
        return plan, ""
    by_structure = plan_of(TransferRequest(source=names, target=spec, match="structure"))
    if not _lost(by_structure, used):
        return by_structure, (
            f"structure gave {counted(len(lost), 'tensor')}, named otherwise in the checkpoint, "
            f"a place in {label}; a mistake in that would show unless both sides have it"
        )
    misfit = {step.source.name: step for step in plan.steps if not step.sources and step.source}
    with_arguments = ", with its arguments (--source-arg num_classes=10)" if misfit else ""
    raise SurgeryError(
        f"the source is no checkpoint of {label}: it has no place for "
        f"{counted(len(lost), 'tensor')} of those that are transferred; name the architecture that "
        f"it was saved from (--source-arch){with_arguments}",
        [_why_lost(spec, misfit) for spec in lost],
    )


def _lost(plan: TransferPlan, used: list[TensorSpec]) -> list[TensorSpec]:
    """What the model has no place for."""
    placed = {spec.name for step in plan.steps if is_exact(step) for spec in step.sources}
    placed |= {unused.source.name for unused in plan.unused if unused.expected}
    return [spec for spec in dict.fromkeys(used) if spec.name not in placed]


def _why_lost(spec: TensorSpec, misfit: Mapping[str, Step]) -> str:
    if spec.name in misfit:
        place = misfit[spec.name].target
        return f"{spec.name} is {shape_text(spec.shape)}, and {shape_text(place.shape)} there"
    return f"{spec.name} {shape_text(spec.shape)}"


def own_values(side: Side, tensor: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint's values as the target will have them: cast to its dtype, then widened.

    What the cast rounds is the file's affair and no difference between two networks. A source
    that targets of several dtypes take is rounded by all of them.
    """
    dtypes: dict[str, dict[str, None]] = {}
    for made in side.takings.values():
        for name in made.sources:
            dtypes.setdefault(name, {})[made.target.dtype] = None
    return {name: _rounded(tensor(name).detach(), dtypes[name]) for name in dtypes}


def _rounded(value: torch.Tensor, dtypes: Iterable[str]) -> torch.Tensor:
    if not is_inexact(value):
        return value
    for dtype in (getattr(torch, name) for name in dtypes):
        value = value.to(dtype if value.is_complex() or not dtype.is_complex else dtype.to_real())
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
