"""What replaces a head, as a value; and its doing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgery.class_rows import Pairs
from surgery.errors import HeadError, did_you_mean
from surgery.heads.find import find_head
from surgery.heads.layers import COUNT_NAMES, WIDTH_NAMES, rebuild, set_count
from surgery.heads.libraries import is_timm_head, is_transformers
from surgery.heads.places import Place, class_places, inner_model
from surgery.wording import listed

#: How many of the kept rows the text spells out; ``kept`` has them all.
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """One layer to be replaced. ``path`` is without wrappers; ``kind`` is the layer's class.

    ``new_classes`` is 0 where features are to come out: the layer becomes an ``nn.Identity``.
    ``old_classes`` is 0 where there is an ``nn.Identity`` so far, as in timm's headless models.
    """

    path: str
    kind: str
    in_features: int
    old_classes: int
    new_classes: int
    bias: bool
    auxiliary: bool
    reason: str

    def __str__(self) -> str:
        role = "auxiliary, " if self.auxiliary else ""
        before, after = self._sizes(self.old_classes), self._sizes(self.new_classes)
        return f"{self.path}: {before} becomes {after} ({role}{self.reason})"

    def _sizes(self, classes: int) -> str:
        return f"{self.kind} {self.in_features} -> {classes}" if classes else "Identity"


@dataclass(frozen=True, slots=True)
class HeadSwap:
    """What replaces a head; it holds names and numbers, no tensor and no module.

    ``layers`` starts with the main one. ``kept`` are (new index, old index) pairs of the class
    rows that are carried over in every layer; all other rows are initialised afresh. ``labels``
    are the new classes' names where they were given. ``how`` says who named the head, ``notes``
    what to mind afterwards.
    """

    layers: tuple[HeadLayer, ...]
    num_classes: int
    kept: Pairs
    labels: tuple[str, ...]
    how: str
    notes: tuple[str, ...]

    @property
    def new_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the new layers bring, as the model's author wrote them
        (without wrappers); none where features are to come out.
        """
        return tuple(
            f"{layer.path}.{name}"
            for layer in self.layers
            for name in ("weight", *(["bias"] if layer.bias else []))
            if layer.new_classes
        )

    def apply(self, model: nn.Module) -> None:
        """Put the new head into ``model``, wrapped or not, with its counts and class names.

        Raises HeadError where the layers are not those that were planned for; nothing has
        changed then. New rows take torch's random state as it is.
        """
        inner: Any = inner_model(model)
        if self.layers[0].old_classes == 0:
            self._add(inner)
            return
        places = self._places(inner)
        if self.num_classes == 0 and self.how == "timm":
            inner.reset_classifier(0)  # timm knows what else goes with a head
            return
        initialise, classes = _initialiser(inner), self.num_classes
        fresh = [
            rebuild(place.module, place.classes, classes, self.kept, initialise)
            if classes
            else nn.Identity().train(place.module.training)
            for place in places
        ]
        counted = is_timm_head(inner, self.layers[0].path)
        for place, layer in zip(places, fresh, strict=True):
            self._put(inner, place, layer)
        if counted:  # a head that somebody put on by hand has left another count behind
            inner.num_classes = self.num_classes
        if is_transformers(inner):
            _update_config(inner, self)

    def __str__(self) -> str:
        rows = f"none, all {self.num_classes} are fresh"
        if self.kept:
            shown = listed([f"{new} from {old}" for new, old in self.kept], _SHOWN)
            rows = f"{len(self.kept)} of {self.num_classes} ({shown})"
        carried = [f"class rows carried over: {rows}"] if self.num_classes else []
        notes = (f"note: {note}" for note in self.notes)
        return "\n".join([*map(str, self.layers), *carried, *notes])

    def _add(self, inner: Any) -> None:
        """The head that timm puts on is initialised as any other new one is."""
        found = find_head(inner, None, self.num_classes)
        if tuple(planned_layer(place, self.num_classes) for place in found.layers) != self.layers:
            raise HeadError("this swap was planned for another model", map(str, self.layers))
        inner.reset_classifier(self.num_classes)
        initialise = _initialiser(inner)
        for layer in self.layers:
            if initialise is not None:
                initialise(inner.get_submodule(layer.path))

    def _places(self, inner: nn.Module) -> list[Place]:
        """Where the planned layers are in this model, each of them still as planned."""
        places = class_places(inner)
        problems = []
        for layer in self.layers:
            place = places.get(layer.path)
            if place is None:
                problems.append(f"{layer.path}: not there{did_you_mean(layer.path, places)}")
            elif place.obstacle or layer != planned_layer(
                place.chosen(layer.reason, auxiliary=layer.auxiliary), self.num_classes
            ):
                problems.append(f"planned was {layer}, and there is {place}")
        if problems:
            raise HeadError("this swap was planned for another model", problems)
        return [places[layer.path] for layer in self.layers]

    def _put(self, inner: nn.Module, place: Place, layer: nn.Module) -> None:
        """Under all its names; modules around it keep the old count of classes, or its width."""
        old, width = place.classes, self.num_classes or place.inputs
        for slot in place.slots:
            *around, name = slot.split(".")
            holders = [inner.get_submodule(".".join(around[:n])) for n in range(len(around) + 1)]
            setattr(holders[-1], name, layer)
            for module in holders:
                set_count(module, old, self.num_classes, COUNT_NAMES)
                set_count(module, old, width, WIDTH_NAMES)


def planned_layer(place: Place, num_classes: int) -> HeadLayer:
    """A layer of the head as it is and as it is to be."""
    return HeadLayer(
        path=place.path,
        kind=place.kind,
        in_features=place.inputs,
        old_classes=place.classes,
        new_classes=num_classes,
        bias=place.bias,
        auxiliary=place.auxiliary,
        reason=place.reason,
    )


def _initialiser(model: nn.Module) -> Callable[[nn.Module], object] | None:
    """The model's ``_init_weights(module)``: what transformers calls on a head that its
    checkpoint lacks, and many timm models and training scripts on every module. Other methods
    of that name that do not take a module are none of ours.
    """
    method = getattr(model, "_init_weights", None)
    if not callable(method):
        return None
    parameters = inspect.signature(method).parameters
    required = [p.name for p in parameters.values() if p.default is inspect.Parameter.empty]
    return method if required in (["m"], ["module"], ["layer"]) else None


def _update_config(model: Any, swap: HeadSwap) -> None:
    """Names of the old classes would be wrong for the new ones even where the counts agree.

    ``problem_type`` is transformers' own guess from the first loss, and a guess of regression
    (one label) does not hold for several.
    """
    config, old = model.config, swap.layers[0].old_classes
    if config.num_labels != old:
        return
    labels = swap.labels or [f"LABEL_{index}" for index in range(swap.num_classes)]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if 1 in (old, swap.num_classes) and old != swap.num_classes:
        config.problem_type = None
