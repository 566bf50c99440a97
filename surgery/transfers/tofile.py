"""A plan -> a new file: the transfer that needs no live model."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.weights import Weights
from surgery.checkpoint.writer import write
from surgery.checkpoint.writing.draft import Draft
from surgery.networks.unfilled import Blueprint
from surgery.record import Record
from surgery.transfers.gathering import gathered, keeping, refuse_torn_ties
from surgery.transfers.plan import TransferOutcome, TransferPlan


def write_plan(
    plan: TransferPlan,
    source: Weights,
    target: Blueprint,
    path: Path,
    *,
    strict: bool = False,
    max_shard_bytes: int | None = None,
    progress: Progress = unwatched,
) -> TransferOutcome:
    """Write the plan's tensors as a new file, with the target's own values of what stays fresh.

    Nothing is computed but casts, what recipes and resizers compute, and what ``target`` computes:
    everything else goes from file to file. The new file appears whole or not at all, in the
    target's dtypes, with a record of every tensor's state; names of one tied tensor share one
    tensor. ``max_shard_bytes`` and ``progress`` as for :func:`surgery.checkpoint.writer.write`.

    Raises :class:`~surgery.errors.ValueRefused` where the source holds two different values for
    the names of one tied parameter and, under ``strict``, where a cast breaks values; and
    :class:`~surgery.errors.CheckpointError` for what cannot be read or written. The old file is
    then as it was.
    """
    own = target.initial((*plan.names("fresh", "open"), *keeping(plan)))
    taken = gathered(plan, source, own)
    refuse_torn_ties(plan, taken)
    known = {**own, **taken}
    dtypes = {step.target.name: step.target.dtype for step in plan.steps}
    states = {step.target.name: step.state for step in plan.steps}
    record = Record(target.label, states, target.spec).to_metadata()
    values = {name: known[name] for name in dtypes}
    written = write(
        Draft(values, plan.ties, target.versions, target.extras, record),
        path,
        dtypes=dtypes,
        strict=strict,
        max_shard_bytes=max_shard_bytes,
        progress=progress,
    )
    return TransferOutcome(plan, written.broken, written.files)
