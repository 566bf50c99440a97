"""Who is trusted to name the head, in this order:

1. the caller, by ``head="path"``;
2. timm, by its model's ``get_classifier()``;
3. transformers, by ``config.num_labels``: the layers of that width around the base model that
   are called like a classifier; its models for other tasks are refused;
4. the model's output: the last layer that it comes through;
5. where the forward cannot be followed, the layer that was registered last, if its name or the
   number of classes that the model states says so.

The first that has something to say decides. A layer that only helps training (a path segment
``aux...``, or an output that is there in training mode alone) joins the head that it mirrors.
In doubt nothing is chosen: HeadError lists the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from surgery.errors import HeadError, did_you_mean
from surgery.head_names import is_auxiliary, last_of_each_parent
from surgery.heads.candidates import Chosen, Head, listing, stated_count
from surgery.heads.libraries import by_timm, by_transformers
from surgery.heads.places import Place, class_places
from surgery.heads.structure import by_output, by_registration


def find_head(model: nn.Module, head: str | Sequence[str] | None, num_classes: int) -> Head:
    """The head of ``model``, which has no wrappers any more. Raises HeadError in doubt.

    ``num_classes`` matters to a timm model without a head: it is what the head will have.
    """
    places = class_places(model)
    if head is not None:
        return _given(places, (head,) if isinstance(head, str) else tuple(head))
    _check_not_lazy(model)
    found = by_timm(model, places, num_classes) or _without_timm(model, places)
    layers = sorted(
        (*found.layers, *_auxiliary_by_name(found, places)), key=lambda chosen: chosen.auxiliary
    )
    return Head(tuple(layers), found.how, found.absent)


def _check_not_lazy(model: nn.Module) -> None:
    """Widths are what a head is told by, and a lazy layer has none."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise HeadError("the model is not initialised yet: run it on one batch first", lazy)


def _without_timm(model: nn.Module, places: Mapping[str, Place]) -> Head:
    if stated_count(model) == 0:
        raise HeadError("the model states 0 classes: it has no head", listing(places))
    return (
        by_transformers(model, places) or by_output(model, places) or by_registration(model, places)
    )


def _given(places: Mapping[str, Place], paths: Sequence[str]) -> Head:
    chosen = tuple(Chosen(_at(places, path), f"given as head={path!r}") for path in paths)
    if not chosen:
        raise HeadError("head names no layer", listing(places))
    return Head(chosen, "given by head=")


def _at(places: Mapping[str, Place], path: str) -> Place:
    """The layer at ``path``, or the last one below it: ``classifier`` for ``classifier.6``."""
    by_slot = {slot: place for place in places.values() for slot in place.slots}
    if (exact := places.get(path) or by_slot.get(path)) is not None:
        return exact
    below = [place for name, place in places.items() if name.startswith(f"{path}.")]
    if below:
        return below[-1]
    raise HeadError(
        f"no Linear or convolution at head={path!r}{did_you_mean(path, places, 3)}",
        listing(places),
    )


def _auxiliary_by_name(head: Head, places: Mapping[str, Place]) -> tuple[Chosen, ...]:
    """Layers called ``aux...`` that are as wide as the head, and that no one has named yet."""
    classes = {chosen.place.shape.classes for chosen in head.layers}
    known = {chosen.place.path for chosen in head.layers}
    named = [p for p in places if is_auxiliary(p) and places[p].shape.classes in classes]
    return tuple(
        Chosen(places[path], "called auxiliary, and as wide as the head", auxiliary=True)
        for path in last_of_each_parent(named)
        if path not in known
    )
