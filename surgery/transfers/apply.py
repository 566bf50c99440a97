"""A plan's steps and their source -> tensors, into a live model in place.

Everything that can be refused is refused before the first value is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from surgery.checkpoint.places import Place
from surgery.checkpoint.source import OneAtATime
from surgery.checkpoint.tensors.casting import cast
from surgery.checkpoint.tensors.filling import fill
from surgery.checkpoint.tensors.reading import flat_pieces, read_tensor
from surgery.checkpoint.weights import Weights
from surgery.checkpoint.writer import refuse_broken
from surgery.checkpoint.writing.values import Computed, Values, is_tensor
from surgery.errors import CheckpointError, SurgeryError, TransferRefused
from surgery.specs import TensorSpec
from surgery.transfers.gathering import gathered, refuse_torn_ties
from surgery.transfers.recipe_tensors import whole
from surgery.transfers.step import Step
from surgery.wording import shape_text


def apply_to_model(
    steps: Mapping[str, Step],
    ties: Iterable[Sequence[str]],
    source: Weights,
    model: nn.Module,
    *,
    strict: bool,
) -> tuple[tuple[str, int], ...]:
    """Write what a plan's steps give into ``model``, as
    :meth:`~surgery.transfers.plan.TransferPlan.apply` says; returned are (target name, elements)
    that casts have broken.
    """
    targets = _targets(steps, model)
    values = _ready(gathered(steps.values(), source, targets))
    refuse_torn_ties(ties, steps, values)
    _refuse_changed(values)
    if strict:
        refuse_broken(_count_broken(steps, values))
    written: dict[int, str] = {}
    broken: dict[str, int] = {}
    read: dict[Values, Values] = {}
    with _telling_how_far(written, targets), OneAtATime() as sources:
        for name, value in _apart_from(values, targets).items():
            target = targets[name]
            if id(target) in written:
                continue
            written[id(target)] = name
            broken[name] = fill(target, read.get(value, value), sources)
            if TensorSpec.of(name, value).dtype == TensorSpec.of(name, target).dtype:
                read[value] = target
    return tuple((name, lost) for name, lost in broken.items() if lost)


def _ready(values: Mapping[str, Values]) -> dict[str, Values]:
    """What the file has in another form (compressed, big-endian, a view) is read beforehand, each
    place once: a part that is damaged shows before anything is written. So is what has to be
    computed: it may be made of values that the model is about to lose.
    """
    read: dict[Values, Values] = {}
    with OneAtATime() as sources:
        for value in values.values():
            if isinstance(value, Computed):
                read[value] = whole(value, value.dtype)
            elif isinstance(value, Place) and not value.is_plain and value not in read:
                read[value] = read_tensor(value, sources.reader(value.region.source))
    return {name: read.get(value, value) for name, value in values.items()}


def _refuse_changed(values: Mapping[str, Values]) -> None:
    """Every file is there, and is the one that was opened: one shard of many may not be."""
    for source in {value.region.source for value in values.values() if isinstance(value, Place)}:
        with source.opened():
            pass


def _count_broken(steps: Mapping[str, Step], values: Mapping[str, Values]) -> dict[str, int]:
    """What the plan's casts would break; nothing is kept."""
    counts = {
        name: sum(cast(piece, dtype)[1] for piece in flat_pieces(value))
        for name, value in values.items()
        if (dtype := steps[name].target.dtype) != TensorSpec.of(name, value).dtype
    }
    return {name: lost for name, lost in counts.items() if lost}


@contextmanager
def _telling_how_far(
    written: Mapping[int, str], targets: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """A file that fails midway leaves a mixture behind, and the error says so."""
    try:
        yield
    except CheckpointError as error:
        if not written:
            raise
        total = len({id(target) for target in targets.values()})
        raise CheckpointError(
            f"{error.message}; {len(written)} of the model's {total} tensors have been written "
            "to by then: build the model anew",
            error.details,
        ) from error


def _targets(steps: Mapping[str, Step], model: nn.Module) -> dict[str, torch.Tensor]:
    """The live tensor of every name to be written, after every check that can be made before."""
    state = model.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    targets: dict[str, torch.Tensor] = {}
    for name, step in steps.items():
        if step.recipe is None:
            continue
        if name not in state or id(state[name]) not in own:
            raise SurgeryError(
                f"the plan's target {name} is no parameter or buffer of this model's state dict; "
                "make the plan from the model as it is now"
            )
        _check_place(step.target, state[name])
        targets[name] = state[name]
    return targets


def _check_place(target: TensorSpec, place: torch.Tensor) -> None:
    """Raise where a copy into ``place`` would not be what the plan said, or would fail."""
    now = TensorSpec.of(target.name, place)
    if now != target:
        raise SurgeryError(
            f"{target.name} was {shape_text(target.shape)} {target.dtype} when the plan was made "
            f"and is {shape_text(now.shape)} {now.dtype} now; make the plan again"
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
    values: Mapping[str, Values], targets: Mapping[str, torch.Tensor]
) -> dict[str, Values]:
    """Values that live in the model's own memory are copied first: two names of one model can
    be swapped.
    """
    memory = {tensor.untyped_storage().data_ptr() for tensor in targets.values()}
    return {
        name: value.clone()
        if is_tensor(value) and value.untyped_storage().data_ptr() in memory
        else value
        for name, value in values.items()
    }
