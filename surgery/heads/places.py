"""Where the layers of a model sit, by the paths that the model's author wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from surgery.errors import HeadError
from surgery.heads.layers import class_shape, why_not_rebuildable
from surgery.private_torch import own_parameters
from surgery.wording import first_lines
from surgery.wrappers import WRAPPER_SEGMENTS, unwrap_names

#: How many layers an error lists, from the output backwards.
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Place:
    """One layer that could be a head: its path without wrappers, and what is there.

    ``slots`` are all the real paths that hold this very module, wrappers included: a head kept
    under two names has two, and both must get the new one. ``inputs`` features go in, and
    ``classes`` come out; ``pointwise`` where each place of the input is classified by itself.
    ``obstacle`` says why the layer cannot be replaced; None where it can. ``reason`` is why it
    belongs to the head, where it does; an ``auxiliary`` one only helps training.
    """

    path: str
    slots: tuple[str, ...]
    module: nn.Module
    inputs: int
    classes: int
    pointwise: bool
    obstacle: str | None
    reason: str = ""
    auxiliary: bool = False

    @property
    def kind(self) -> str:
        return type(self.module).__name__

    @property
    def bias(self) -> bool:
        return own_parameters(self.module).get("bias") is not None

    def chosen(self, reason: str, *, auxiliary: bool = False) -> Place:
        """The same layer as one of the head's."""
        return replace(self, reason=reason, auxiliary=auxiliary)

    def __str__(self) -> str:
        sizes = f"{self.inputs} -> {self.classes}"
        obstacle = f"; {self.obstacle}" if self.obstacle else ""
        return f"{self.path or '(the model itself)'} ({self.kind}, {sizes}{obstacle})"


@dataclass(frozen=True, slots=True)
class Head:
    """All layers of the head, auxiliary ones last, and who named it.

    They have no classes where they are not there yet: they are what timm would add.
    """

    layers: tuple[Place, ...]
    how: str


def doubt(places: Mapping[str, Place], why: Sequence[str] = ()) -> HeadError:
    """The error that lists the candidates, and before them what spoke against choosing one."""
    if not places:
        return HeadError("the model has no Linear or convolution that could be its head")
    return HeadError(
        'cannot tell which layer is the head: pass head="path"', [*why, *listing(places)]
    )


def listing(places: Mapping[str, Place]) -> list[str]:
    """The candidates from the output backwards, as far as anyone reads."""
    return first_lines([f"candidate: {place}" for place in [*places.values()][::-1]], _LISTED)


def wrappers_and_model(model: nn.Module) -> tuple[tuple[nn.Module, ...], nn.Module]:
    """DataParallel, DDP, FSDP and ``torch.compile``, however they nest, and the network inside.

    Raises HeadError for what is no module: a class, a factory, a state dict.
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        found = f"the class {kind}: pass an instance" if isinstance(model, type) else f"a {kind}"
        raise HeadError(f"model is an nn.Module, not {found}")
    wrappers = []
    children = dict(model.named_children())
    while len(children) == 1 and WRAPPER_SEGMENTS.issuperset(children):
        wrappers.append(model)
        (model,) = children.values()
        children = dict(model.named_children())
    return tuple(wrappers), model


def inner_model(model: nn.Module) -> nn.Module:
    """The network without what a training run wrapped around it."""
    return wrappers_and_model(model)[1]


def class_places(model: nn.Module) -> dict[str, Place]:
    """Every layer that could be a head by its path, in registration order.

    A module held under several names appears once, under the first.
    """
    slots: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if class_shape(module) is not None:
            slots.setdefault(module, []).append(name)
    # ``unwrap_names`` never drops a last segment, so it is shown the weight of each layer.
    weights = [f"{names[0]}.weight".removeprefix(".") for names in slots.values()]
    clean = unwrap_names(weights).values()
    holders = names_by_tensor(model.named_parameters(remove_duplicate=False))
    places: dict[str, Place] = {}
    for weight, (module, names) in zip(clean, slots.items(), strict=True):
        path = weight.removesuffix("weight").removesuffix(".")
        shape = class_shape(module)
        assert shape is not None
        obstacle = _obstacle(names, module, holders) or why_not_rebuildable(module, *shape[:2])
        places[path] = Place(path, tuple(names), module, *shape, obstacle)
    return places


def names_by_tensor(named: Iterable[tuple[str, torch.Tensor]]) -> dict[int, list[str]]:
    """Identity to all names: a tensor with more than one is tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    return names


def _obstacle(slots: list[str], module: nn.Module, holders: dict[int, list[str]]) -> str | None:
    """What stands in the way where the layer sits. An embedding that shares the weight would be
    left behind, untied without a word.
    """
    if "" in slots:
        return "the model is nothing but this layer: put it into an nn.Sequential"
    if any(slot.rpartition(".")[2] == "_orig_mod" for slot in slots):
        return "it is compiled by itself, and the old one would go on running: swap, then compile"
    own = {f"{slot}.{name}" for slot in slots for name in own_parameters(module)}
    for name, parameter in own_parameters(module).items():
        others = [holder for holder in holders.get(id(parameter), ()) if holder not in own]
        if parameter is not None and others:
            return f"its {name} is tied to {others[0]}: untie it first"
    return None
