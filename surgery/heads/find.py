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
from surgery.head_names import is_auxiliary, is_called_a_head, last_of_each_parent
from surgery.heads.libraries import by_timm, by_transformers, stated_count
from surgery.heads.output import Output, outputs
from surgery.heads.places import Head, Place, class_places, doubt, listing


def find_head(model: nn.Module, head: str | Sequence[str] | None, num_classes: int) -> Head:
    """The head of ``model``, which has no wrappers any more. Raises HeadError in doubt.

    ``num_classes`` matters to a timm model without a head: it is what the head will have.
    """
    places = class_places(model)
    if head is not None:
        return _given(places, (head,) if isinstance(head, str) else tuple(head))
    # Widths are what a head is told by, and a lazy layer has none.
    tensors = (*model.named_parameters(), *model.named_buffers())
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise HeadError("the model is not initialised yet: run it on one batch first", lazy)
    found = by_timm(model, places, num_classes)
    if found is None:
        if stated_count(model) == 0:
            raise HeadError("the model states 0 classes: it has no head", listing(places))
        found = by_transformers(model, places) or _by_output(model, places)
    found = found or _by_registration(model, places)
    layers = (*found.layers, *_auxiliary_by_name(found, places))
    return Head(tuple(sorted(layers, key=lambda layer: layer.auxiliary)), found.how)


def _given(places: Mapping[str, Place], paths: Sequence[str]) -> Head:
    if not paths:
        raise HeadError("head names no layer", listing(places))
    layers = (_at(places, path).chosen(f"given as head={path!r}") for path in paths)
    return Head(tuple(layers), "given by head=")


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


def _auxiliary_by_name(head: Head, places: Mapping[str, Place]) -> tuple[Place, ...]:
    """Layers called ``aux...`` that are as wide as the head, and that no one has named yet."""
    classes = {layer.classes for layer in head.layers}
    known = {layer.path for layer in head.layers}
    named = [path for path in places if is_auxiliary(path) and places[path].classes in classes]
    return tuple(
        places[path].chosen("called auxiliary, and as wide as the head", auxiliary=True)
        for path in last_of_each_parent(named)
        if path not in known
    )


def _by_output(model: nn.Module, places: Mapping[str, Place]) -> Head | None:
    """The last layers that the output comes through, and those of outputs in training alone.

    None where the forward cannot be followed. Raises HeadError where it can, but the output
    comes through more, or through something else, or another output is as wide.
    """
    evaluated = outputs(model, places, training=False)
    if evaluated is None:
        return None
    main = _main_output(evaluated, stated_count(model))
    if main is None:
        raise doubt(places, [f"an output comes through {output}" for output in evaluated])
    elsewhere = {place.path for output in evaluated for place in output.layers}
    helpers = {
        place.path: place.chosen("an output in training comes through it", auxiliary=True)
        for output in outputs(model, places, training=True) or ()
        for place in (() if output.others else output.layers)
        if place.classes == main.classes and place.path not in elsewhere
    }
    heads = (
        place.chosen("the output comes through it", auxiliary=is_auxiliary(place.path))
        for place in main.layers
    )
    return Head((*heads, *helpers.values()), "the model's output")


def _main_output(found: Sequence[Output], stated: int | None) -> Output | None:
    """The one output that can only be class scores; None where there is none, or several.

    Another task's scores may be as many: a name does not say which of the two is meant.
    """
    distinct = {
        output.layers: output
        for output in found
        if not (output.layers and all(is_auxiliary(place.path) for place in output.layers))
    }
    unrivalled = len(distinct) == 1 and stated is None
    clear = [
        output
        for output in distinct.values()
        if output.classes is not None
        and all(_could_be_head(place, stated, unrivalled) for place in output.layers)
    ]
    if len(clear) != 1:
        return None
    (main,) = clear
    as_wide = [output for output in distinct.values() if output.classes == main.classes]
    return main if as_wide == [main] else None


def _could_be_head(place: Place, stated: int | None, unrivalled: bool) -> bool:
    """Beside other outputs, or against a stated count, a layer needs a name or the width; the
    3x3 convolution that a backbone ends with needs them anyway.
    """
    evident = place.classes == stated or is_called_a_head(place.path)
    return evident or (unrivalled and place.pointwise)


def _by_registration(model: nn.Module, places: Mapping[str, Place]) -> Head:
    """The last layer, if the stated count or else its name says so, and of no other as well."""
    mains = [path for path in places if not is_auxiliary(path)]
    stated = stated_count(model)
    if stated is None:
        likely = [path for path in mains if is_called_a_head(path)]
        evidence = "by its name"
    else:
        likely = [path for path in mains if places[path].classes == stated]
        evidence = f"and {stated} wide, as many classes as the model states"
    heads = last_of_each_parent(likely)
    if len(heads) > 1:
        raise doubt(places, [f"{heads[-2]} and {heads[-1]} could both be it"])
    if not heads or heads[0] != mains[-1]:
        raise doubt(places, [f"the model states {stated} classes"] if stated is not None else [])
    return Head((places[heads[0]].chosen(f"the last layer, {evidence}"),), "registration order")
