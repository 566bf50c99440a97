"""What timm and transformers know of their own models' heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from surgery.errors import HeadError
from surgery.head_names import is_auxiliary, is_called_a_head, last_of_each_parent
from surgery.heads.layers import COUNT_NAMES
from surgery.heads.places import Head, Place, class_places, doubt, listing
from surgery.skeleton import skeleton

#: The tasks of transformers' models whose head has one row for each class.
_CLASSIFYING = ("Classification", "SemanticSegmentation")


def by_timm(model: Any, places: Mapping[str, Place], num_classes: int) -> Head | None:
    """None for a model that is not timm's.

    Many of timm's weights come without a head. For such a model the head is the one that
    timm's ``reset_classifier`` would put on, tried on a copy without values. Raises HeadError
    where somebody put a head on of which no last layer is known.
    """
    if not _is_timm(model):
        return None
    if chosen := _timm_layers(model, places):
        return Head(chosen, "timm")
    for head in _classifiers(model.get_classifier()):
        if any(True for _ in head.parameters()):
            raise HeadError(f"cannot rebuild a head of class {type(head).__name__}: name a layer")
    trial: Any = skeleton(model)
    trial.reset_classifier(num_classes)
    if added := _timm_layers(trial, class_places(trial)):
        absent = (replace(place, classes=0) for place in added)
        return Head(tuple(absent), "timm")
    raise HeadError("the model has no head, it gives features already")


def is_timm_head(model: nn.Module, path: str) -> bool:
    """Whether timm names the layer at ``path``: its width is then the model's ``num_classes``."""
    if not _is_timm(model):
        return False
    layers = _timm_layers(model, class_places(model))
    return any(layer.path == path and not layer.auxiliary for layer in layers)


def _is_timm(model: nn.Module) -> bool:
    return all(hasattr(model, name) for name in ("pretrained_cfg", "reset_classifier"))


def _timm_layers(model: Any, places: Mapping[str, Place]) -> tuple[Place, ...]:
    """By what this very model was built with: the config may list a ``head_dist`` that is not
    there, and leave out one that is (levit_384_s8).
    """
    return tuple(
        place.chosen("named by timm", auxiliary=is_auxiliary(place.path))
        for head in _classifiers(model.get_classifier())
        for place in _last_layers(head, places, model.num_classes)
    )


def _classifiers(found: Any) -> Iterator[nn.Module]:
    """``get_classifier`` gives a module, or several, which may be rows of modules themselves."""
    if isinstance(found, tuple | list | nn.ModuleList):
        for inner in found:
            yield from _classifiers(inner)
    elif found is not None:
        yield found


def _last_layers(head: nn.Module, places: Mapping[str, Place], classes: int) -> list[Place]:
    """The last layer of a plain row; of any other head (RepViT's holds a pair) the last of each
    part, if they have the width.
    """
    parts = {id(part) for part in head.modules()}
    inside = [place for place in places.values() if id(place.module) in parts]
    if not inside:
        return []
    last = inside[-1]
    if last.module is head or isinstance(head, nn.Sequential):
        return [last]
    if last.classes != classes:
        return []
    wide = [place.path for place in inside if place.classes == classes]
    return [places[path] for path in last_of_each_parent(wide)]


def is_transformers(model: nn.Module) -> bool:
    """Whether the model carries a config that names its classes, as transformers' do."""
    return hasattr(getattr(model, "config", None), "id2label")


def stated_count(model: Any) -> int | None:
    """The number of classes that the model itself keeps, under a name that people use for it."""
    held = [vars(model).get(name) for name in COUNT_NAMES]
    if is_transformers(model):
        held.append(model.config.num_labels)
    return next((count for count in held if type(count) is int), None)


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
    around = [p for p in places if not p.startswith(base) and places[p].classes == labels]
    named = last_of_each_parent(filter(is_called_a_head, around))
    if around and not named:
        why = f"{around[-1]} is {labels} wide (num_labels), but not called like a classifier"
        raise doubt(places, [why])
    reason = f"transformers' config: num_labels is {labels}"
    layers = (places[path].chosen(reason, auxiliary=is_auxiliary(path)) for path in named)
    return Head(tuple(layers), "transformers") if named else None


def _check_task(model: Any, places: Mapping[str, Place]) -> None:
    # What transformers' own class says after ``For``: ``BertForQuestionAnswering``.
    kinds = [kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers")]
    tasks = [kind.__name__.rpartition("For")[2] for kind in kinds if "For" in kind.__name__]
    task = tasks[0] if tasks else ""
    if task and not any(word in task for word in _CLASSIFYING):
        raise HeadError(
            f"{type(model).__name__} is made for {task}, which is no classification:"
            ' if the rows of a layer are classes, pass head="path"',
            listing(places),
        )
