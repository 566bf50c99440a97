"""What all ways of finding the head share: the result, and what a model says of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgery.errors import HeadError
from surgery.heads.layers import COUNT_NAMES
from surgery.heads.places import Place

#: How many layers an error lists, from the output backwards.
_LISTED = 8


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
