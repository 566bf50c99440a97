"""A plan and its source -> tensors, into a live model in place or into a new file.

Everything that can be refused is refused before the first value is written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import SurgeryError, TransferRefused, ValueRefused
from surgery.specs import TensorSpec
from surgery.transfers.plan import Load, TransferPlan, shape_text
from surgery.transfers.source import Source

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class TransferOutcome:
    """What a transfer did. ``str()`` is the table.

    ``overflowed`` are (target name, elements) where a cast turned finite values into infinities
    or NaN, or changed an integer.
    """

    plan: TransferPlan
    overflowed: tuple[tuple[str, int], ...] = ()

    @cached_property
    def loaded(self) -> tuple[str, ...]:
        """Target names that took a source tensor's values."""
        return self.plan.names("loaded")

    @cached_property
    def adapted(self) -> tuple[str, ...]:
        """Target names whose values were computed from a source tensor of another form."""
        return self.plan.names("adapted")

    @cached_property
    def fresh(self) -> tuple[str, ...]:
        """Target names that kept the values they had."""
        return self.plan.names("fresh")

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Source names that nothing used, those that cannot be read included."""
        names = tuple(unused.source.name for unused in self.plan.unused)
        return (*names, *(name for name, _ in self.plan.unread))

    @property
    def loaded_fraction(self) -> float:
        """Share of the model's parameter elements that were loaded or adapted, 0 to 1."""
        return self.plan.loaded_fraction

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "loaded_fraction": self.loaded_fraction,
            "loaded": list(self.loaded),
            "adapted": list(self.adapted),
            "fresh": list(self.fresh),
            "unused": list(self.unused),
            "overflowed": [[name, count] for name, count in self.overflowed],
            "plan": self.plan.to_dict(),
        }

    def __repr__(self) -> str:
        return (
            f"<TransferOutcome: {len(self.loaded)} loaded, {len(self.fresh)} fresh, "
            f"{len(self.unused)} unused, loaded_fraction={self.loaded_fraction:.4f}>"
        )

    def __str__(self) -> str:
        from surgery.report import outcome_report

        return outcome_report(self).text()


def apply_to_model(
    plan: TransferPlan, source: Source, model: nn.Module, *, strict: bool = False
) -> TransferOutcome:
    """Write the plan's values into ``model``, in place, so that an optimizer made earlier holds.

    Parameters stay the objects they are, on their device and in their dtype. Raises, before
    anything is written, :class:`~surgery.errors.SurgeryError` where the model is not the one
    that the plan was made for or lies on the meta device, and
    :class:`~surgery.errors.ValueRefused` as :func:`read_values` does.
    """
    import torch

    places = _places(plan, model)
    values, overflowed = read_values(plan, source, strict=strict)
    values = _apart_from(values, places)
    with torch.no_grad():
        for name, value in values.items():
            places[name].copy_(value)
    return TransferOutcome(plan, overflowed)


def apply_to_file(
    plan: TransferPlan,
    source: Source,
    frame: OrderedDict[str, Any],
    path: str | Path,
    *,
    metadata: Mapping[str, str],
    strict: bool = False,
) -> TransferOutcome:
    """Write the plan's tensors into a copy of ``frame`` and that as one new file.

    ``frame`` is the target's state dict, its module versions (``_metadata``) and whatever else
    it holds included; only the tensors that no source feeds need values. The file appears whole
    or not at all, in the target's dtypes; names of one tied tensor share one tensor.
    """
    from surgery.checkpoint import save

    values, overflowed = read_values(plan, source, strict=strict)
    state = frame.copy()
    state._metadata = getattr(frame, "_metadata", None)  # type: ignore[attr-defined]
    state.update(values)
    for names in plan.ties:
        for name in names[1:]:
            state[name] = state[names[0]]
    save(state, path, metadata=metadata)
    return TransferOutcome(plan, overflowed)


def read_values(
    plan: TransferPlan, source: Source, *, strict: bool = False
) -> tuple[dict[str, torch.Tensor], tuple[tuple[str, int], ...]]:
    """Target name -> value in the target's dtype, and what the casts broke.

    Raises :class:`~surgery.errors.ValueRefused` where the source holds two different values for
    the names of one tied parameter and, under ``strict``, where a cast breaks values.
    """
    values: dict[str, torch.Tensor] = {}
    overflowed: list[tuple[str, int]] = []
    cache: dict[tuple[str, str], torch.Tensor] = {}
    for step in plan.steps:
        if not isinstance(step, Load):
            continue
        place = (step.source.name, step.target.dtype)
        if place not in cache:
            cache[place], broken = _cast(source.tensor(step.source.name), step.target)
            if broken:
                overflowed.append((step.target.name, broken))
        values[step.target.name] = cache[place]
    _refuse_torn_ties(plan, values)
    if strict and overflowed:
        raise ValueRefused(
            f"strict: casts break {sum(count for _, count in overflowed)} values in "
            f"{len(overflowed)} tensors, the first is {overflowed[0][0]}; nothing was changed"
        )
    return values, tuple(overflowed)


def _cast(value: torch.Tensor, target: TensorSpec) -> tuple[torch.Tensor, int]:
    """The value in the target's dtype, and how many elements did not survive."""
    import torch

    value = value.detach()
    dtype = getattr(torch, target.dtype)
    if value.dtype == dtype:
        return value, 0
    cast = value.to(dtype)
    if not value.is_floating_point() and not value.is_complex():
        return cast, int((cast.to(value.dtype) != value).sum())
    lost = _is_finite(value) & ~_is_finite(cast)
    if target.dtype == "float8_e8m0fnu":  # it has no sign
        lost |= _widened(value).real < 0
    return cast, int(lost.sum())


def _is_finite(value: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.isfinite(_widened(value))


def _widened(value: torch.Tensor) -> torch.Tensor:
    """In a dtype that every float fits and that every operation knows."""
    import torch

    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _refuse_torn_ties(plan: TransferPlan, values: Mapping[str, torch.Tensor]) -> None:
    for names in plan.ties:
        present = [name for name in names if name in values]
        for name in present[1:]:
            if not _same_values(values[present[0]], values[name]):
                raise ValueRefused(
                    f"{present[0]} and {name} are one parameter in the target, but the source "
                    f"has two different tensors for them ({_source(plan, present[0])} and "
                    f"{_source(plan, name)}); drop one from the source or rename it away"
                )


def _same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or bool(((one == other) | ((one != one) & (other != other))).all())


def _source(plan: TransferPlan, target: str) -> str:
    step = plan.by_target[target]
    return step.source.name if step.source else target


def _places(plan: TransferPlan, model: nn.Module) -> dict[str, torch.Tensor]:
    """The live tensor of every name to be written, after every check that can be made before."""
    state = model.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    places: dict[str, torch.Tensor] = {}
    for step in plan.steps:
        name = step.target.name
        if step.status == "fresh":
            continue
        if name not in state or id(state[name]) not in own:
            raise SurgeryError(
                f"the plan's target {name} is no parameter or buffer of this model's state dict; "
                "make the plan from the model as it is now"
            )
        _check_place(step.target, state[name])
        places[name] = state[name]
    return places


def _check_place(target: TensorSpec, place: torch.Tensor) -> None:
    """Raise where a copy into ``place`` would not be what the plan said, or would fail."""
    from surgery.describe import tensor_spec

    now = tensor_spec(target.name, place)
    if now != target:
        raise SurgeryError(
            f"{target.name} was {shape_text(target)} {target.dtype} when the plan was made and is "
            f"{shape_text(now)} {now.dtype} now; make the plan again"
        )
    if place.is_meta:
        raise TransferRefused(
            f"{target.name} lies on the meta device, where a copy does nothing; give the model "
            "memory first (model.to_empty(device=...)), and initialise what stays fresh"
        )
    if place.is_inference():
        raise TransferRefused(
            f"{target.name} was made under torch.inference_mode() and cannot be written; build "
            "the model outside of it"
        )
    if any(s == 0 and size > 1 for s, size in zip(place.stride(), place.shape, strict=True)):
        raise TransferRefused(
            f"{target.name} is an expanded view, whose elements share memory; make it contiguous "
            "before the transfer"
        )


def _apart_from(
    values: dict[str, torch.Tensor], places: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Values that live in the model's own memory are copied first: two names of one model can
    be swapped.
    """
    memory = {tensor.untyped_storage().data_ptr() for tensor in places.values()}
    return {
        name: value.clone() if value.untyped_storage().data_ptr() in memory else value
        for name, value in values.items()
    }
