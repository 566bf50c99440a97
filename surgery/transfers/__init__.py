"""The three-step transfer: plan what goes where, look at it, do it.

Read top to bottom it is the pipeline: :mod:`~surgery.transfers.request` (what somebody wants),
:mod:`~surgery.transfers.planning` (both ends opened), :mod:`~surgery.transfers.decide` (specs by
specs to a :mod:`~surgery.transfers.plan` of :mod:`steps <surgery.transfers.step>`),
:mod:`~surgery.transfers.refusal` (what is not accepted), :mod:`~surgery.transfers.gathering` (steps
to values, which the plan writes into a new file), :mod:`~surgery.transfers.apply` (into a live
model) and :mod:`~surgery.transfers.mapping` (a plan to the lines that say the same).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from surgery.errors import SurgeryError
from surgery.transfers.plan import TransferOutcome, TransferPlan
from surgery.transfers.planning import plan
from surgery.transfers.request import HintsLike, ResizeLike, TargetLike, TransferRequest
from surgery.transfers.step import Evidence, Step, Unused
from surgery.transfers.target import is_module

if TYPE_CHECKING:
    from torch import nn

    from surgery.checkpoint.weights import SourceLike
    from surgery.matching.lines.mapping import MappingLike
    from surgery.specs import TensorSpec

__all__ = [
    "Evidence",
    "Step",
    "TransferOutcome",
    "TransferPlan",
    "TransferRequest",
    "Unused",
    "plan_transfer",
    "transfer",
]


def plan_transfer(
    source: SourceLike | Iterable[TensorSpec],
    target: TargetLike,
    *,
    match: str = "names",
    mapping: MappingLike = None,
    hints: HintsLike = (),
    key: str | None = None,
    source_arch: str | None = None,
    resize: ResizeLike = None,
    fresh: str | Iterable[str] = (),
    min_loaded: float | None = None,
    strict: bool = False,
    keep_open: bool = False,
) -> TransferPlan:
    """Decide where every tensor of ``target`` comes from. Nothing is read or written but names.

    ``source`` is a path, a state dict, a module, an open checkpoint, or specs; ``target`` a
    module, specs, or an architecture's name. ``mapping`` is a mapping file's path, its text, or a
    mapping of patterns to replacements; ``key`` chooses among several state dicts in one file.

    ``match="structure"`` brings two implementations of one network together, whatever their names
    are; ``hints`` decide what it leaves open (``plan.open``): ``"conv3 -> reduce"`` pairs two
    layers, ``"query_key_value -> 8 x (q, k, v)"`` says how fused rows lie. ``source_arch`` names
    the architecture that a file was saved from.

    ``resize="auto"`` has tensors of another shape made by the first method that fits them,
    ``resize="pos_embed"`` these alone, ``resize={"pos_embed": "pos-embed:old=14x14,new=7x28"}``
    by one method; :mod:`surgery.transfers.resize` lists them.

    ``plan.apply(model)`` and ``plan.write(path)`` do it, and refuse what is not accepted: by
    default every tensor outside the head must be loaded, computed or resized. ``fresh`` are
    patterns of tensors that need not; ``min_loaded``, a share of the parameters, is asked for in
    place of that; ``keep_open`` accepts what structure leaves open; ``strict`` accepts nothing
    fresh, resized or unused that was not named.

    >>> print(plan_transfer("old.pt", timm.create_model("resnet18", num_classes=10)))
    """
    return plan(
        TransferRequest(
            source=source,
            target=target,
            match=match,
            mapping=mapping,
            hints=hints,
            key=key,
            source_arch=source_arch,
            resize=resize,
            fresh=fresh,
            min_loaded=min_loaded,
            strict=strict,
            keep_open=keep_open,
        )
    )


def transfer(
    source: SourceLike,
    model: nn.Module,
    *,
    match: str = "names",
    mapping: MappingLike = None,
    hints: HintsLike = (),
    key: str | None = None,
    source_arch: str | None = None,
    resize: ResizeLike = None,
    fresh: str | Iterable[str] = (),
    min_loaded: float | None = None,
    strict: bool = False,
    keep_open: bool = False,
) -> TransferOutcome:
    """Filter and update: every tensor of ``source`` that fits goes into ``model``, in place.

    :func:`plan_transfer` says what the keywords mean. Raises
    :class:`~surgery.errors.TransferRefused` for what they do not accept, with the model bit for
    bit as it was.
    """
    if not is_module(model):
        name = getattr(model, "__name__", type(model).__name__)
        raise SurgeryError(f"the weights go into a torch.nn.Module, and {name} is none")
    return plan_transfer(
        source,
        model,
        match=match,
        mapping=mapping,
        hints=hints,
        key=key,
        source_arch=source_arch,
        resize=resize,
        fresh=fresh,
        min_loaded=min_loaded,
        strict=strict,
        keep_open=keep_open,
    ).apply(model)
