"""A plan and its source -> tensors, into a live model in place or into a new file.

Everything that can be refused is refused before the first value is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.pairs import bytes_that_agree, run_alike
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.source import OneAtATime
from surgery.checkpoint.writer import write
from surgery.checkpoint.writing.casting import Casts, cast, refuse_broken, widened
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.values import Computed, Values, is_plain, is_tensor, spec_of
from surgery.errors import CheckpointError, SurgeryError, TransferRefused, ValueRefused
from surgery.specs import TensorSpec
from surgery.transfers.adapters.computing import computed
from surgery.transfers.assembled import assembled
from surgery.transfers.plan import Adapt, Assemble, Load, TransferPlan, shape_text
from surgery.transfers.source import Source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.architectures import Blueprint


@dataclass(frozen=True)
class TransferOutcome:
    """What a transfer did. ``str()`` is the table.

    ``overflowed`` are (target name, elements) where a cast turned finite values into infinities
    or NaN, or changed an integer. ``files`` were written, an index last.
    """

    plan: TransferPlan
    overflowed: tuple[tuple[str, int], ...] = ()
    files: tuple[Path, ...] = ()

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
        adapted = f"{len(self.adapted)} adapted, " if self.adapted else ""
        return (
            f"<TransferOutcome: {len(self.loaded)} loaded, {adapted}{len(self.fresh)} fresh, "
            f"{len(self.unused)} unused, loaded_fraction={self.loaded_fraction:.4f}>"
        )

    def __str__(self) -> str:
        from surgery.report import outcome_report

        return outcome_report(self).text()


def apply_to_model(
    plan: TransferPlan, source: Source, model: nn.Module, *, strict: bool = False
) -> TransferOutcome:
    """Write the plan's values into ``model``, in place, so that an optimizer made earlier holds.

    Parameters stay the objects they are, on their device and in their dtype. A file is read
    straight into their memory, every byte once; what an adapter computes is computed before
    anything is written, and held until then. Raises, before anything is written,
    :class:`~surgery.errors.SurgeryError` where the model is not the one that the plan was made
    for or lies on the meta device, and :class:`~surgery.errors.ValueRefused` where the source
    holds two different values for the names of one tied parameter and, under ``strict``, where a
    cast breaks values. A file that fails or changes while it is read raises
    :class:`~surgery.errors.CheckpointError`, which says if the model has been written to.
    """
    from surgery.checkpoint.filling import fill

    targets = _targets(plan, model)
    values = _ready(_taken(plan, source, targets))
    _refuse_torn_ties(plan, values)
    _refuse_changed(values)
    if strict:
        refuse_broken(_count_broken(plan, values))
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
            if spec_of(name, value).dtype == spec_of(name, target).dtype:
                read[value] = target
    return TransferOutcome(plan, tuple((name, lost) for name, lost in broken.items() if lost))


def apply_to_file(
    plan: TransferPlan,
    source: Source,
    target: Blueprint,
    path: str | Path,
    *,
    metadata: Mapping[str, str],
    strict: bool = False,
    max_shard_bytes: int | None = None,
    progress: Progress = untold,
) -> TransferOutcome:
    """Write the plan's tensors as a new file, with the initial values of what stays fresh.

    Nothing is computed but casts, adapters and what ``target`` computes: everything else goes
    from file to file. The new file appears whole or not at all, in the target's dtypes; names
    of one tied tensor share one tensor. Raises as :func:`apply_to_model` does; the old file is
    then as it was. ``max_shard_bytes`` and ``progress`` as for
    :func:`surgery.checkpoint.writer.write`.
    """
    casts = Casts()
    own = target.initial((*plan.names("fresh"), *_keeping(plan)))
    taken = _taken(plan, source, own)
    _refuse_torn_ties(plan, taken)
    known = {**own, **taken}
    values = {
        spec.name: casts.cast(spec.name, known[spec.name], spec.dtype)
        for spec in (step.target for step in plan.steps)
    }
    aliases = {name: names[0] for names in plan.ties for name in names[1:]}
    versions = {path: {"version": version} for path, version in target.versions.items()}
    draft = Draft(values, aliases, versions, target.extras, metadata)

    def check() -> None:
        if strict:
            refuse_broken(casts.broken)

    files = write(
        draft, Path(path), max_shard_bytes=max_shard_bytes, before_commit=check, progress=progress
    )
    return TransferOutcome(plan, tuple(casts.broken.items()), files)


def _taken(plan: TransferPlan, source: Source, initial: Mapping[str, Values]) -> dict[str, Values]:
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


def _keeping(plan: TransferPlan) -> list[str]:
    """Adapted targets that keep some of their own values."""
    return [s.target.name for s in plan.steps if isinstance(s, Adapt) and s.initial]


def _ready(values: Mapping[str, Values]) -> dict[str, Values]:
    """What the file has in another form (compressed, big-endian, a view) is read beforehand, each
    place once: a part that is damaged shows before anything is written. So is what has to be
    computed: it may be made of values that the model is about to lose.
    """
    from surgery.checkpoint.tensors import flat_pieces, read_tensor

    read: dict[Values, Values] = {}
    with OneAtATime() as sources:
        for value in values.values():
            if isinstance(value, Computed):
                read[value] = _joined([*flat_pieces(value)]).reshape(value.shape)
            elif isinstance(value, Place) and not is_plain(value) and value not in read:
                read[value] = read_tensor(value, sources.reader(value.region.source))
    return {name: read.get(value, value) for name, value in values.items()}


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return pieces[0] if len(pieces) == 1 else torch.cat([*pieces])


def _refuse_changed(values: Mapping[str, Values]) -> None:
    """Every file is there, and is the one that was opened: one shard of many may not be."""
    for source in {value.region.source for value in values.values() if isinstance(value, Place)}:
        with source.opened():
            pass


def _count_broken(plan: TransferPlan, values: Mapping[str, Values]) -> dict[str, int]:
    """What the plan's casts would break; nothing is kept."""
    from surgery.checkpoint.tensors import flat_pieces

    counts = {
        name: sum(cast(piece, dtype)[1] for piece in flat_pieces(value))
        for name, value in values.items()
        if (dtype := plan.by_target[name].target.dtype) != spec_of(name, value).dtype
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


def _refuse_torn_ties(plan: TransferPlan, values: Mapping[str, Values]) -> None:
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


def _targets(plan: TransferPlan, model: nn.Module) -> dict[str, torch.Tensor]:
    """The live tensor of every name to be written, after every check that can be made before."""
    state = model.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    targets: dict[str, torch.Tensor] = {}
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
        targets[name] = state[name]
    return targets


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
