"""What all ways of finding the head share: the result, and what layers' names and widths tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import HeadError
from surgery.heads.layers import COUNT_NAMES
from surgery.heads.places import Place

if TYPE_CHECKING:
    from torch import nn

#: How many layers an error lists, from the output backwards.
_LISTED = 8

#: What people call a head, as a word of a path's last two segments (``lm_head``, ``cls_score``),
_HEAD_WORDS = frozenset(
    {"head", "heads", "fc", "classifier", "classification", "score", "logits", "summary"}
)
#: or as a whole segment: inside others (``out_proj``, ``linear2``) these are no heads.
_HEAD_SEGMENTS = frozenset({"linear", "out", "output", "predictor"})


@dataclass(frozen=True, slots=True)
class Chosen:
    """A layer that belongs to the head, and why. An auxiliary one only helps training."""

    place: Place
    reason: str
    auxiliary: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """All layers of the head, auxiliary ones last, and who named it.

    ``absent`` says that the model has none of them yet: they are what timm would add.
    """

    layers: tuple[Chosen, ...]
    how: str
    absent: bool = False


def is_auxiliary(place: Place) -> bool:
    """Whether a segment of the path says so: ``AuxLogits.fc``, ``aux1.fc2``."""
    return any(segment.lower().startswith("aux") for segment in place.path.split("."))


def is_called_a_head(path: str) -> bool:
    """Never inside a numbered block: ``blocks.11.mlp.fc2`` is called like a head and is none."""
    segments = path.lower().split(".")
    if any(segment.isdigit() for segment in segments[:-1]):
        return False
    words = {word.rstrip("0123456789") for end in segments[-2:] for word in end.split("_")}
    return bool(words & _HEAD_WORDS or set(segments[-2:]) & _HEAD_SEGMENTS)


def last_of_each_parent(places: Iterable[Place]) -> list[Place]:
    """An inner layer of a head may happen to be as wide as its last one. Layers that hang on
    the model itself are heads of their own (DeiT's pair).
    """
    last = {place.path.rpartition(".")[0] or place.path: place for place in places}
    return list(last.values())


def is_transformers(model: nn.Module) -> bool:
    """Whether the model carries a config that names its classes, as transformers' do."""
    return hasattr(getattr(model, "config", None), "id2label")


def stated_count(model: Any) -> int | None:
    """The number of classes that the model itself keeps, under a name that people use for it."""
    held = [vars(model).get(name) for name in COUNT_NAMES]
    if is_transformers(model):
        held.append(model.config.num_labels)
    return next((count for count in held if type(count) is int), None)


def doubt(places: Mapping[str, Place], why: Sequence[str] = ()) -> HeadError:
    """The error that lists the candidates, and before them what spoke against choosing one."""
    if not places:
        return HeadError("the model has no Linear or convolution that could be its head")
    return HeadError(
        'cannot tell which layer is the head: pass head="path"', [*why, *listing(places)]
    )


def listing(places: Mapping[str, Place]) -> list[str]:
    """The candidates from the output backwards, as far as anyone reads."""
    backwards = list(places.values())[::-1]
    lines = [f"candidate: {place}" for place in backwards[:_LISTED]]
    hidden = len(backwards) - len(lines)
    return [*lines, f"and {hidden} more before them"] if hidden else lines
