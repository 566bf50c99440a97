"""The three-step transfer: plan what goes where, look at it, apply it.

Read top to bottom it is the pipeline: :mod:`~surgery.checkpoint.weights` (what holds the old
weights), :mod:`~surgery.matching.lines.renames`, then :mod:`~surgery.matching.names` or
:mod:`~surgery.matching.by_structure` (source name to target name),
:mod:`~surgery.transfers.decide` (specs to a :mod:`~surgery.transfers.plan`),
:mod:`~surgery.transfers.gathering` (a plan to values), :mod:`~surgery.transfers.apply` (into a
live model), :mod:`~surgery.transfers.tofile` (into a new file) and
:mod:`~surgery.transfers.mapping` (a plan to a rename file).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

from surgery.checkpoint.weights import names_of, open_source
from surgery.errors import SurgeryError
from surgery.matching.by_structure import UNKNOWN, Code, HintsLike
from surgery.matching.lines.renames import RenamesLike, read_renames
from surgery.networks.describe import describe
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers.apply import apply_to_model
from surgery.transfers.decide import make_plan
from surgery.transfers.outcome import TransferOutcome
from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load, TransferPlan, Unused
from surgery.transfers.resize.asked import AdaptersLike, read_asked

if TYPE_CHECKING:
    from torch import nn

    from surgery.checkpoint.weights import SourceLike

__all__ = [
    "Adapt",
    "Assemble",
    "KeepInit",
    "Load",
    "TransferOutcome",
    "TransferPlan",
    "Unused",
    "apply_to_model",
    "open_source",
    "plan_transfer",
    "transfer",
]


def plan_transfer(
    source: SourceLike | Iterable[TensorSpec],
    target: nn.Module | ModelSpec | Iterable[TensorSpec],
    *,
    match: str = "names",
    renames: RenamesLike = None,
    hints: HintsLike = (),
    key: str | None = None,
    on_mismatch: str = "keep",
    adapters: AdaptersLike = None,
) -> TransferPlan:
    """Decide where every tensor of ``target`` comes from. Nothing is read or written but names.

    ``source`` is a path, a state dict, a module, an open checkpoint, or specs. ``renames`` is a
    rename file's path, its text, or a mapping of patterns to replacements; ``key`` chooses among
    several state dicts in one file.

    ``match="structure"`` brings two implementations of one network together, whatever their names
    are; ``hints`` settle what it leaves open (``plan.refused``): ``"conv3 = reduce"`` pairs two
    layers, ``"query_key_value = 8 x (q, k, v)"`` says how fused rows lie.

    ``on_mismatch="adapt"`` has tensors of another shape computed where an adapter fits them;
    ``adapters`` names them one by one, ``{"pos_embed": "pos-embed:old=14x14,new=7x28"}``.
    :mod:`surgery.transfers.resize` lists them.

    >>> print(plan_transfer("old.pt", timm.create_model("resnet18", num_classes=10)))
    """
    return make_plan(
        _source_names(source, key),
        _target_spec(target),
        match=match,
        renames=read_renames(renames),
        hints=hints,
        code=_code(match, source, target),
        on_mismatch=on_mismatch,
        adapters=read_asked(adapters),
    )


def transfer(
    source: SourceLike,
    model: nn.Module,
    *,
    match: str = "names",
    renames: RenamesLike = None,
    hints: HintsLike = (),
    key: str | None = None,
    on_mismatch: str = "keep",
    adapters: AdaptersLike = None,
    min_loaded: float = 0.5,
    strict: bool = False,
    keep_open: bool = False,
) -> TransferOutcome:
    """Filter and update: every tensor of ``source`` that fits goes into ``model``, in place.

    ``min_loaded`` is the share of the model's parameter elements, 0 to 1, below which nothing is
    done; ``strict`` accepts no difference at all, save adapters that were named; ``keep_open``
    accepts that what structure leaves open keeps its values. The others are as for
    :func:`plan_transfer`. Raises :class:`~surgery.errors.TransferRefused` for what is not
    accepted, with the model bit for bit as it was.
    """
    opened = open_source(source, key)
    plan = make_plan(
        names_of(opened),
        _model_spec(model),
        match=match,
        renames=read_renames(renames),
        hints=hints,
        code=_code(match, source, model),
        on_mismatch=on_mismatch,
        adapters=read_asked(adapters),
    )
    plan.refuse_unless(min_loaded=min_loaded, strict=strict, keep_open=keep_open)
    return apply_to_model(plan, opened, model, strict=strict)


def _code(match: str, source: object, target: object) -> Code:
    """What live modules tell of their code; names do not ask."""
    from torch import nn

    from surgery.networks.running_order import running_order

    if match != "structure":
        return UNKNOWN
    orders = [
        partial(running_order, side) if isinstance(side, nn.Module) else tuple
        for side in (source, target)
    ]
    return Code(describe(source) if isinstance(source, nn.Module) else None, *orders)


def _source_names(source: SourceLike | Iterable[TensorSpec], key: str | None) -> SourceSpec:
    from torch import nn

    if isinstance(source, Iterable) and not isinstance(source, str | Mapping | nn.Module):
        specs = tuple(source)
        if all(isinstance(spec, TensorSpec) for spec in specs):
            return SourceSpec(specs)
    return names_of(open_source(cast("SourceLike", source), key))


def _model_spec(model: nn.Module) -> ModelSpec:
    from torch import nn

    if not isinstance(model, nn.Module):
        name = getattr(model, "__name__", type(model).__name__)
        raise SurgeryError(f"the weights go into a torch.nn.Module, and {name} is none")
    return describe(model)


def _target_spec(target: nn.Module | ModelSpec | Iterable[TensorSpec]) -> ModelSpec:
    from torch import nn

    if isinstance(target, ModelSpec):
        return target
    if isinstance(target, nn.Module):
        return describe(target)
    if isinstance(target, Iterable) and not isinstance(target, str | Mapping):
        specs = tuple(target)
        if all(isinstance(spec, TensorSpec) for spec in specs):
            return ModelSpec.from_tensors(specs)
    raise SurgeryError(
        f"the target is a torch.nn.Module, a ModelSpec or TensorSpecs, not a "
        f"{getattr(target, '__name__', type(target).__name__)}"
    )
