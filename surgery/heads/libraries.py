"""What timm and transformers know of their own models' heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import HeadError
from surgery.heads.candidates import (
    Chosen,
    Head,
    doubt,
    is_auxiliary,
    is_called_a_head,
    is_transformers,
    last_of_each_parent,
    listing,
)
from surgery.heads.output import skeleton
from surgery.heads.places import Place, class_places

if TYPE_CHECKING:
    from torch import nn

#: The tasks of transformers' models whose head has one row for each class.
_CLASSIFYING = ("Classification", "SemanticSegmentation")


def by_timm(model: Any, places: Mapping[str, Place], num_classes: int) -> Head | None:
    """None for a model that is not timm's.

    Many of timm's weights come without a head. For such a model the head is the one that
    timm's ``reset_classifier`` would put on, tried on a copy without values. Raises HeadError
    where somebody put a head on that has no last layer to be told.
    """
    if not _is_timm(model):
        return None
    if chosen := _timm_layers(model, places):
        return Head(chosen, "timm")
    for head in _classifiers(model):
        if any(True for _ in head.parameters()):
            raise HeadError(f"cannot rebuild a head of class {type(head).__name__}: name a layer")
    trial: Any = skeleton(model)
    trial.reset_classifier(num_classes)
    if added := _timm_layers(trial, class_places(trial)):
        return Head(added, "timm", absent=True)
    raise HeadError("the model has no head, it gives features already")


def is_timm_head(model: nn.Module, path: str) -> bool:
    """Whether timm names the layer at ``path``: its width is then the model's ``num_classes``."""
    if not _is_timm(model):
        return False
    layers = _timm_layers(model, class_places(model))
    return any(chosen.place.path == path and not chosen.auxiliary for chosen in layers)


def _is_timm(model: nn.Module) -> bool:
    return all(hasattr(model, name) for name in ("pretrained_cfg", "reset_classifier"))


def _timm_layers(model: Any, places: Mapping[str, Place]) -> tuple[Chosen, ...]:
    """The config knows auxiliary heads, ``get_classifier`` what this very model was built with:
    a listed ``head_dist`` may be absent, one that is there may not be listed (levit_384_s8).
    """
    entry = (model.pretrained_cfg or {}).get("classifier") or ()
    listed = (entry,) if isinstance(entry, str) else tuple(entry)
    reasons = {path: "named by timm's config" for path in listed if path in places}
    for head in _classifiers(model):
        if (place := _last_layer(head, places, model.num_classes)) is not None:
            reasons.setdefault(place.path, "named by timm's get_classifier()")
    return tuple(
        Chosen(places[path], reason, is_auxiliary(places[path])) for path, reason in reasons.items()
    )


def _classifiers(model: Any) -> Iterator[nn.Module]:
    """What ``get_classifier`` returns is one module, or a tuple or ModuleList of several."""
    from torch import nn

    found = model.get_classifier()
    several = isinstance(found, tuple | list | nn.ModuleList)
    yield from (head for head in (found if several else (found,)) if head is not None)


def _last_layer(head: nn.Module, places: Mapping[str, Place], classes: int) -> Place | None:
    """Of a head that is more than a layer, if it is a plain row of layers or has the width."""
    from torch import nn

    parts = {id(part) for part in head.modules()}
    inside = [place for place in places.values() if id(place.module) in parts]
    if not inside:
        return None
    last = inside[-1]
    plain = last.module is head or isinstance(head, nn.Sequential)
    return last if plain or last.shape.classes == classes else None


def by_transformers(model: Any, places: Mapping[str, Place]) -> Head | None:
    """A task's model is the base model and, around it, the head: as wide as ``num_labels``, and
    called like a classifier, for a box has four sides and an answer two ends as well.

    None where no layer around the base model is that wide. Raises HeadError where none of those
    that are is called like a classifier, and for a model whose task is no classification.
    """
    if not is_transformers(model):
        return None
    _check_task(model, places)
    base = f"{getattr(model, 'base_model_prefix', '')}."
    labels = model.config.num_labels
    around = [
        place
        for path, place in places.items()
        if not path.startswith(base) and place.shape.classes == labels
    ]
    named = [place for place in around if is_called_a_head(place.path)]
    if around and not named:
        why = f"{around[-1].path} is {labels} wide (num_labels), but not called like a classifier"
        raise doubt(places, [why])
    reason = f"transformers' config: num_labels is {labels}"
    chosen = tuple(Chosen(p, reason, is_auxiliary(p)) for p in last_of_each_parent(named))
    return Head(chosen, "transformers") if chosen else None


def _check_task(model: Any, places: Mapping[str, Place]) -> None:
    task = _task(model)
    if task and not any(word in task for word in _CLASSIFYING):
        raise HeadError(
            f"{type(model).__name__} is made for {task}, which is no classification:"
            ' if the rows of a layer are classes, pass head="path"',
            listing(places),
        )


def _task(model: Any) -> str | None:
    """What transformers' own class says after ``For``: ``BertForQuestionAnswering``."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("transformers") and "For" in kind.__name__:
            return kind.__name__.rpartition("For")[2]
    return None
