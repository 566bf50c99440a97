"""The value that says where every target tensor comes from, before it happens; and after.

Every target name is in exactly one step; every source name is used by a step, or listed with the
reason why it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.holding import Checkpoint
from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.weights import Weights
from surgery.checkpoint.writer import write
from surgery.checkpoint.writing.draft import Draft
from surgery.collecting import collector_paused
from surgery.errors import SelectorError, SurgeryError
from surgery.matching.matches import OpenGroup
from surgery.networks.unfilled import Blueprint
from surgery.patterns import parse_selector
from surgery.record import Record
from surgery.showing import Shown, json_of
from surgery.specs import ModelSpec, SourceSpec
from surgery.transfers.gathering import gathered, refuse_torn_ties
from surgery.transfers.request import TransferRequest
from surgery.transfers.selecting import names_selected, no_tensor
from surgery.transfers.step import Step, Unused

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Ends:
    """What a plan is made between and carried out on: ``source`` holds the old weights, or is all
    that is known of them (``names``), and ``target`` takes them.

    ``plan`` makes another plan between the same; ``refuse`` raises
    :class:`~surgery.errors.TransferRefused` for what a plan leaves and its request does not accept.
    """

    source: Weights | SourceSpec
    names: SourceSpec
    target: Blueprint
    plan: Callable[[TransferRequest], TransferPlan]
    refuse: Callable[[TransferPlan], None]

    @property
    def readable(self) -> Weights:
        """The old weights with their values; SurgeryError where only names are known."""
        if isinstance(self.source, SourceSpec):
            raise SurgeryError(
                "this plan was made from names and shapes alone; make it from the file or the "
                "state dict whose values are to be moved"
            )
        return self.source


@dataclass(frozen=True)
class TransferPlan(Shown):
    """What goes where.

    ``steps`` are in the target's order, one for every target tensor. ``parameters`` names the
    targets that count towards ``loaded_fraction``: every parameter once, under the first of its
    names. ``ties`` are the target's names of one tensor, where it has more than one. ``head`` are
    the names of the head's tensors, as far as something of the target stays fresh.
    ``unread`` are entries of the source that are no tensors of a kind that is read, each with
    the reason. ``open`` are groups of tensors that nothing distinguishes.

    ``request`` is what was asked for, ``target`` the model as selectors see it, ``ends`` what the
    plan is carried out on. Two plans are equal where the same goes to the same place.
    """

    steps: tuple[Step, ...]
    unused: tuple[Unused, ...]
    parameters: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    unread: tuple[tuple[str, str], ...]
    open: tuple[OpenGroup, ...]
    head: tuple[str, ...]
    request: TransferRequest = field(compare=False)
    target: ModelSpec = field(compare=False)
    ends: Ends = field(compare=False)

    @property
    def target_label(self) -> str:
        """What the target is called: ``timm:resnet50``, or a live model's class."""
        return self.ends.target.label

    @property
    def source_label(self) -> str:
        """What the source is called, and what was found there: ``old.pt (torch zip, model)``."""
        called, source = self.request.source_label, self.ends.source
        if not isinstance(source, Checkpoint):
            return called
        return f"{called} ({', '.join(filter(None, (source.format, source.key)))})"

    def apply(self, model: nn.Module) -> TransferOutcome:
        """Do it to a live model, in place, as :func:`surgery.transfer` does.

        Parameters stay the objects they are, so that an optimizer made earlier holds, on their
        device and in their dtype. A file is read straight into their memory, every byte once; what
        a resizer computes, or what is joined of several tensors, is made before and held until
        then.

        Raises, before anything is written, :class:`~surgery.errors.TransferRefused` where the plan
        leaves what its request does not accept or the model lies on the meta device,
        :class:`~surgery.errors.SurgeryError` where it is not the one that the plan was made for,
        and :class:`~surgery.errors.ValueRefused` where the source holds two different values for
        the names of one tied parameter and, under ``strict``, where a cast breaks values. A file
        that fails or changes while it is read raises :class:`~surgery.errors.CheckpointError`,
        which says if the model has been written to.
        """
        from surgery.transfers.apply import apply_to_model

        self.refuse_unaccepted()
        source, strict = self.ends.readable, self.request.strict
        broken = apply_to_model(self.by_target, self.ties, source, model, strict=strict)
        return TransferOutcome(self, broken)

    def write(
        self,
        path: str | Path,
        *,
        max_shard_bytes: int | None = None,
        progress: Progress = unwatched,
    ) -> TransferOutcome:
        """Do it into a new file, which appears whole or not at all; the format follows the suffix.

        Nothing is computed but casts, what recipes and resizers compute, and the target's own
        values of what stays fresh: everything else goes from file to file. The file has the
        target's dtypes and a record of every tensor's state; names of one tied tensor share one.

        ``max_shard_bytes`` cuts what is larger into shards, ``progress`` hears of bytes as they
        are written. Raises as :meth:`apply` does, and :class:`~surgery.errors.CheckpointError` for
        what cannot be read or written.
        """
        self.refuse_unaccepted()
        target = self.ends.target
        kept = [s.target.name for s in self.steps if s.method and s.method.initial]
        own = target.initial((*self.names("fresh", "open"), *kept))
        taken = gathered(self.steps, self.ends.readable, own)
        refuse_torn_ties(self.ties, self.by_target, taken)
        known = {**own, **taken}
        states = {name: step.state for name, step in self.by_target.items()}
        record = Record(target.label, states, target.spec).to_metadata()
        values = {name: known[name] for name in self.by_target}
        written = write(
            Draft(values, self.ties, target.versions, target.extras, record),
            Path(path),
            dtypes={name: step.target.dtype for name, step in self.by_target.items()},
            strict=self.request.strict,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
        return TransferOutcome(self, written.broken, written.files)

    def refuse_unaccepted(self) -> None:
        """Raise TransferRefused where the plan leaves what its request does not accept."""
        self.ends.refuse(self)

    @property
    def head_paths(self) -> tuple[str, ...]:
        """The modules that hold the tensors of ``head``."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.head))

    @cached_property
    def by_target(self) -> Mapping[str, Step]:
        """Steps by target name."""
        return {step.target.name: step for step in self.steps}

    def names(self, *states: str) -> tuple[str, ...]:
        """The target names in these states, see :data:`surgery.states.STATES`."""
        return tuple(step.target.name for step in self.steps if step.state in states)

    @property
    def loaded_fraction(self) -> float:
        """Share of the target's parameter elements that the source gives, 0 to 1.

        Elements of a resized tensor that keep their initial values do not count. A target
        without parameters (buffers alone) counts its tensors' elements instead.
        """
        names = set(self.parameters) or set(self.by_target)
        steps = [step for step in self.steps if step.target.name in names]
        total = sum(step.target.numel for step in steps)
        return sum(step.taken for step in steps) / total if total else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of the target's values; tied tensors once."""
        repeated = {name for names in self.ties for name in names[1:]}
        return sum(s.target.nbytes for s in self.steps if s.target.name not in repeated)

    @property
    def casts(self) -> Mapping[str, int]:
        """How many tensors each kind of cast touches, such as ``{"float16 -> float32": 12}``."""
        return Counter(step.cast for step in self.steps if step.cast)

    def select(self, selector: str) -> tuple[Step, ...]:
        """The steps of the target tensors that a selector names, in order.

        Raises :class:`~surgery.errors.SelectorError` where it names none.
        """
        parsed = parse_selector(selector)
        states = {name: step.state for name, step in self.by_target.items()}
        (found,) = names_selected(self.target, [parsed], self.head_paths or None, states)
        if not found:
            raise SelectorError(no_tensor(parsed, self.target))
        return tuple(step for step in self.steps if step.target.name in found)

    @collector_paused()
    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        names = (
            "loaded_fraction",
            "steps",
            "unused",
            "unread",
            "parameters",
            "ties",
            "open",
            "head",
        )
        return {name: json_of(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        return (
            f"<TransferPlan: {len(self.steps)} steps, {len(self.unused)} unused, "
            f"loaded_fraction={self.loaded_fraction:.4f}>"
        )


@dataclass(frozen=True)
class TransferOutcome(Shown):
    """What a transfer did. ``str()`` is the table.

    ``overflowed`` are (target name, elements) where a cast turned finite values into infinities
    or NaN, or changed an integer. ``files`` were written, an index last.
    """

    plan: TransferPlan
    overflowed: tuple[tuple[str, int], ...] = ()
    files: tuple[Path, ...] = ()

    @cached_property
    def loaded(self) -> tuple[str, ...]:
        """Target names that took source tensors' values as they are."""
        return self.plan.names("loaded")

    @cached_property
    def computed(self) -> tuple[str, ...]:
        """Target names whose values are arithmetic on source tensors."""
        return self.plan.names("computed")

    @cached_property
    def resized(self) -> tuple[str, ...]:
        """Target names whose values were made from a source tensor of another shape."""
        return self.plan.names("resized")

    @cached_property
    def fresh(self) -> tuple[str, ...]:
        """Target names that kept the values they had, what was left open included."""
        return self.plan.names("fresh", "open")

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Source names that nothing used, those that cannot be read included."""
        names = tuple(unused.source.name for unused in self.plan.unused)
        return (*names, *(name for name, _ in self.plan.unread))

    @property
    def loaded_fraction(self) -> float:
        """Share of the model's parameter elements that the source gave, 0 to 1."""
        return self.plan.loaded_fraction

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        states = ("loaded", "computed", "resized", "fresh", "unused")
        names = ("loaded_fraction", *states, "overflowed", "files", "plan")
        return {name: json_of(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        computed = f"{len(self.computed)} computed, " if self.computed else ""
        resized = f"{len(self.resized)} resized, " if self.resized else ""
        return (
            f"<TransferOutcome: {len(self.loaded)} loaded, {computed}{resized}"
            f"{len(self.fresh)} fresh, {len(self.unused)} unused, "
            f"loaded_fraction={self.loaded_fraction:.4f}>"
        )
