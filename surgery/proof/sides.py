"""Two models and a plan -> two sides that take the same tensors of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from surgery.checkpoint.weights import Weights
from surgery.errors import SurgeryError
from surgery.matching.recipes.recipe import Recipe
from surgery.networks.describe import describe
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

    ``recipes`` make its tensors of the checkpoint's, exactly: no value is computed. ``foreign``
    are tensors of its own that have no part in the transfer: a new head here, the old one there.
    ``resized`` are those between which a resizer stands, with its name: they hold other values on
    either side.
    """

    label: str
    model: nn.Module
    recipes: Mapping[str, Recipe]
    foreign: tuple[str, ...]
    resized: Mapping[str, str]

    @cached_property
    def live(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer under each of its names."""
        return _tensors_of(self.model)


@dataclass(frozen=True)
class Sides:
    """Both networks, and ``own``: in float64, the values of the checkpoint's tensors that they
    take, each under one of its names. ``note`` is what a reader has to know of how the source's
    recipes were found.
    """

    source: Side
    target: Side
    own: Mapping[str, torch.Tensor]
    note: str

    @property
    def both(self) -> tuple[Side, Side]:
        return self.source, self.target


def make_sides(
    source: nn.Module,
    target: nn.Module,
    plan: TransferPlan,
    labels: tuple[str, str],
    weights: Weights | None = None,
) -> Sides:
    """How both models' tensors are made of the checkpoint's, and what only one of them has.

    ``plan`` is the target's; the source's own is found by names. ``weights`` is the checkpoint;
    where it is None its values are those of ``source``. Raises
    :class:`~surgery.errors.SurgeryError` where the source model has no place for a tensor that
    the plan uses: it is not the checkpoint's architecture.
    """
    exact = [step for step in plan.steps if _is_exact(step)]
    used = [spec for step in exact for spec in step.sources]
    after = {step.target.name: step.method.name for step in plan.steps if step.method}
    resized = {
        spec: step.method.name for step in plan.steps if step.method for spec in step.sources
    }
    ties = weights.ties if weights else ()
    tied = {name for names in ties for name in names}
    # An index that the target computes is computed by the source too: in float64, on both sides.
    left = (u.source for u in plan.unused if not u.expected or u.source.name in tied)
    names = SourceSpec(tuple(dict.fromkeys((*used, *resized, *left))), ties)
    own_plan, note = _own_plan(names, source, used, labels[0])
    placed = {step.target.name: step.source for step in own_plan.steps if step.source}
    before = {place: resized[spec] for place, spec in placed.items() if spec in resized}
    live = _tensors_of(source)
    held = {spec.name: live[place] for place, spec in placed.items()}
    tensor = weights.tensor if weights else held.__getitem__
    one = _one_name_each((*ties, *_ties_of(own_plan, tensor), *_ties_of(plan, tensor)))
    known = {one.get(spec.name, spec.name) for spec in used}
    return Sides(
        _side(labels[0], source, own_plan, one, known, before),
        _side(labels[1], target, plan, one, known, after),
        _own_values(exact, one, tensor),
        note,
    )


def _side(
    label: str,
    model: nn.Module,
    plan: TransferPlan,
    one: Mapping[str, str],
    used: set[str],
    resized: Mapping[str, str],
) -> Side:
    live = _tensors_of(model)
    recipes: dict[str, Recipe] = {}
    foreign = []
    for step in plan.steps:
        name = step.target.name
        recipe = _renamed(step, one) if _is_exact(step) else None
        if recipe and used.issuperset(spec.name for spec in recipe.sources):
            if name not in live:
                raise SurgeryError(f"{label} has no parameter or buffer {name}")
            recipes[name] = recipe
        elif step.target.is_floating and name in live and not step.recomputed:
            foreign.append(name)
    taken = {id(live[name]) for name in recipes}
    alone = tuple(name for name in foreign if id(live[name]) not in taken)
    return Side(label, model, recipes, alone, resized)


def _tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _is_exact(step: Step) -> bool:
    """Whether the tensor is made of the checkpoint's with no value computed."""
    return step.recipe is not None and step.method is None and step.recipe.moves


def _renamed(step: Step, one: Mapping[str, str]) -> Recipe:
    """Its recipe, of the one name that each of the checkpoint's tensors goes by."""
    assert step.recipe is not None
    return step.recipe.with_sources(lambda spec: replace(spec, name=one.get(spec.name, spec.name)))


def _ties_of(
    plan: TransferPlan, tensor: Callable[[str], torch.Tensor]
) -> Iterator[tuple[str, ...]]:
    """The checkpoint's names that end, each by itself, in one tensor of the target; those that
    hold what the first does, since one tensor cannot hold two values.
    """
    copies = {
        step.target.name: step.recipe.sources[0].name
        for step in plan.steps
        if step.recipe and step.recipe.is_copy and _is_exact(step)
    }
    for names in plan.ties:
        group = [*dict.fromkeys(copies[name] for name in names if name in copies)]
        if len(group) > 1:
            first = tensor(group[0])
            yield tuple(name for name in group if torch.equal(tensor(name), first))


def _one_name_each(ties: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Every name of a tie to one of them, ties that share a name joined."""
    one: dict[str, str] = {}
    for names in ties:
        known = {one.get(name, name) for name in names}
        joined = [*names, *(name for name, other in one.items() if other in known)]
        one |= dict.fromkeys(joined, min(known))
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
    misfit = {s.counterpart.name: s.target.shape for s in plan.steps if s.counterpart}
    details = [
        f"{spec.name} {shape_text(spec.shape)}"
        if spec.name not in misfit
        else f"{spec.name} is {shape_text(spec.shape)}, and {shape_text(misfit[spec.name])} there"
        for spec in lost
    ]
    raise SurgeryError(
        f"the source is no checkpoint of {label}: it has no place for "
        f"{counted(len(lost), 'tensor')} of those that are transferred; name the architecture that "
        "it was saved from (--source-arch), with its arguments (--source-arg num_classes=10)",
        details,
    )


def _lost(plan: TransferPlan, used: list[TensorSpec]) -> list[TensorSpec]:
    """What the model has no place for."""
    placed = {spec.name for step in plan.steps if _is_exact(step) for spec in step.sources}
    placed |= {unused.source.name for unused in plan.unused if unused.expected}
    return [spec for spec in dict.fromkeys(used) if spec.name not in placed]


def _own_values(
    steps: list[Step], one: Mapping[str, str], tensor: Callable[[str], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The checkpoint's values as the target will have them: cast to its dtype, then widened.

    What the cast rounds is the file's affair and no difference between two networks. A source
    that targets of several dtypes take is rounded by all of them.
    """
    dtypes: dict[str, dict[str, None]] = {}
    for step in steps:
        for spec in _renamed(step, one).sources:
            dtypes.setdefault(spec.name, {})[step.target.dtype] = None
    return {name: _rounded(tensor(name).detach(), dtypes[name]) for name in dtypes}


def _rounded(value: torch.Tensor, dtypes: Iterable[str]) -> torch.Tensor:
    if not is_inexact(value):
        return value
    for dtype in (getattr(torch, name) for name in dtypes):
        value = value.to(dtype if value.is_complex() or not dtype.is_complex else dtype.to_real())
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
