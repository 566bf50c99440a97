"""Deciding which layers give way to a new head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

from torch import nn

from surgery.class_rows import Labels, kept_rows, ordered_labels
from surgery.errors import HeadError
from surgery.heads.find import find_head
from surgery.heads.places import Place, wrappers_and_model
from surgery.heads.swap import HeadSwap, planned_layer

_OPTIMIZER_NOTE = "make the optimizer after this, one made before holds the old head's parameters"
_FROZEN_NOTE = "the new head is frozen (requires_grad=False), as the old one was"
_REMEMBERING = frozenset({"DistributedDataParallel", "FullyShardedDataParallel"})
_WRAPPER_NOTE = "wrapped in {kind}: wrap again after this, it has taken note of the old parameters"


def replace_head(
    model: nn.Module,
    num_classes: int,
    *,
    head: str | Sequence[str] | None = None,
    keep: Mapping[int, int] | None = None,
    old_labels: Labels | None = None,
    new_labels: Labels | None = None,
) -> HeadSwap:
    """:func:`plan_head`, done: ``model`` has its new head, and the swap says what was replaced."""
    swap = plan_head(
        model, num_classes, head=head, keep=keep, old_labels=old_labels, new_labels=new_labels
    )
    swap.apply(model)
    return swap


def plan_head(
    model: nn.Module,
    num_classes: int,
    *,
    head: str | Sequence[str] | None = None,
    keep: Mapping[int, int] | None = None,
    old_labels: Labels | None = None,
    new_labels: Labels | None = None,
) -> HeadSwap:
    """Decide which layers give way to a head of ``num_classes``; ``model`` stays untouched.

    ``num_classes=0`` asks for features: what went into the head comes out. ``head`` names the
    layer (or the layers, the main one first) and nothing else is replaced then; without it,
    auxiliary and distillation heads are found and replaced as well. Class rows are carried over
    by ``keep={new_index: old_index}``, or where old and new labels (lists, or ``{index: label}``
    as in transformers' ``config.id2label``) share one; otherwise every row is fresh, a count
    that happens to match included.

    Raises HeadError where the head cannot be found, cannot be rebuilt, where ``keep`` or the
    labels do not fit the counts, or where no label is shared.
    """
    num_classes = _count(num_classes)
    wrappers, inner = wrappers_and_model(model)
    found = find_head(inner, head, num_classes)
    _check_layers(found.layers)
    layers = tuple(planned_layer(place, num_classes) for place in found.layers)
    old = ordered_labels("old_labels", old_labels)
    new = ordered_labels("new_labels", new_labels)
    kept = kept_rows(layers[0].old_classes, num_classes, keep, old, new)
    return HeadSwap(
        layers=layers,
        num_classes=num_classes,
        kept=kept,
        labels=new or (),
        how=found.how,
        notes=tuple(_notes(wrappers, found.layers, num_classes)),
    )


def head_paths(model: nn.Module) -> tuple[str, ...]:
    """Where the layers of the head are, for rules that speak of it: ``("head", "head_dist")``.

    Empty where :func:`plan_head` would refuse (in doubt, or a head tied to an embedding), and
    where the model has no head yet. ``model`` stays untouched.
    """
    try:
        layers = plan_head(model, 1).layers
    except HeadError:
        return ()
    return tuple(layer.path for layer in layers if layer.old_classes)


def _count(num_classes: object) -> int:
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral):
        raise HeadError(f"num_classes is a whole number, not {num_classes!r}")
    count = int(num_classes)
    if count < 0:
        raise HeadError(f"num_classes is {num_classes}: 0 gives features, 1 and more give classes")
    return count


def _check_layers(layers: Sequence[Place]) -> None:
    """Layers of different widths are no one head; and all that stands in the way at once."""
    problems = [str(place) for place in layers if place.obstacle]
    if problems:
        raise HeadError("the head cannot be replaced", problems)
    if len({place.classes for place in layers}) > 1:
        raise HeadError("the layers of one head have one number of classes", map(str, layers))


def _notes(wrappers: Sequence[nn.Module], layers: Sequence[Place], num_classes: int) -> list[str]:
    notes = [_OPTIMIZER_NOTE]
    parameters = [parameter for place in layers for parameter in place.module.parameters()]
    if num_classes and not any(parameter.requires_grad for parameter in parameters):
        notes.append(_FROZEN_NOTE)
    kinds = [type(wrapper).__name__ for wrapper in wrappers]
    return notes + [_WRAPPER_NOTE.format(kind=kind) for kind in kinds if kind in _REMEMBERING]
