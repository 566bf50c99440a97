"""A plan and its source -> the values of every target, in files, in memory or to be computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from surgery.checkpoint.pairs import bytes_that_agree, run_alike
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import untold
from surgery.checkpoint.weights import Source
from surgery.checkpoint.writing.casting import cast, widened
from surgery.checkpoint.writing.values import Values
from surgery.errors import ValueRefused
from surgery.transfers.assembled import assembled
from surgery.transfers.plan import Adapt, Assemble, Load, TransferPlan
from surgery.transfers.resize.computing import computed

if TYPE_CHECKING:
    import torch


def gathered(
    plan: TransferPlan, source: Source, initial: Mapping[str, Values]
) -> dict[str, Values]:
    """The values of all targets that are loaded or adapted; ``initial`` are targets' own."""
    taken: dict[str, Values] = {}
    for step in plan.steps:
        name = step.target.name
        match step:
            case Load():
                taken[name] = source.place(step.source.name)
            case Assemble():
                places = {spec.name: source.place(spec.name) for spec in step.sources}
                taken[name] = assembled(step.operation, step.target.shape, places)
            case Adapt():
                values = [source.place(spec.name) for spec in step.sources]
                taken[name] = computed(step, values, initial[name] if step.initial else None)
    return taken


def keeping(plan: TransferPlan) -> list[str]:
    """Adapted targets that keep some of their own values."""
    return [s.target.name for s in plan.steps if isinstance(s, Adapt) and s.initial]


def refuse_torn_ties(plan: TransferPlan, values: Mapping[str, Values]) -> None:
    """Raise :class:`~surgery.errors.ValueRefused` where the source holds different values for the
    names of one tied parameter.
    """
    for names in plan.ties:
        present = [name for name in names if name in values]
        for name in present[1:]:
            dtype = plan.by_target[name].target.dtype
            if not _same_values(values[present[0]], values[name], dtype):
                raise ValueRefused(
                    f"{present[0]} and {name} are one parameter in the target, but the source "
                    f"has two different tensors for them ({_source(plan, present[0])} and "
                    f"{_source(plan, name)}); drop one from the source or rename it away"
                )


def _same_values(one: Values, other: Values, dtype: str) -> bool:
    """Whether they are equal in ``dtype``; NaN equals NaN. Equal bytes need no torch."""
    if one is other or not math.prod(one.shape) or _same_bytes(one, other):
        return True
    ours, theirs = _whole(one, dtype), _whole(other, dtype)
    return bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())


def _same_bytes(one: Values, other: Values) -> bool:
    if not (isinstance(one, Place) and isinstance(other, Place) and run_alike(one, other)):
        return False
    with one.region.source.opened() as ours, other.region.source.opened() as theirs:
        agreed = bytes_that_agree(one, other, (ours, theirs), untold)
    return agreed == one.spec("").nbytes


def _whole(values: Values, dtype: str) -> torch.Tensor:
    import torch

    from surgery.checkpoint.tensors import flat_pieces

    flat = torch.cat([cast(piece, dtype)[0] for piece in flat_pieces(values)])
    return widened(flat) if flat.is_floating_point() or flat.is_complex() else flat


def _source(plan: TransferPlan, target: str) -> str:
    step = plan.by_target[target]
    return step.source.name if step.source else target
