"""An architecture -> a live model, with its initial values or without."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from surgery.errors import ArchitectureError
from surgery.heads import replace_head
from surgery.networks.architectures import Architecture
from surgery.networks.deferred import DeferredInit
from surgery.networks.describe import blueprint_of
from surgery.networks.origins import ORIGINS
from surgery.networks.origins.raised import named_errors
from surgery.networks.unfilled import Blueprint

Factory = Callable[..., Any]


def build(
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The model itself, with its own initial values.

    For the arguments see :func:`surgery.networks.blueprints.blueprint`. What the code prints is
    on stderr, since stdout is the caller's.
    """
    origin = ORIGINS[architecture.origin]
    given = origin.arguments(architecture.name, arguments or {})
    with redirect_stdout(sys.stderr), origin.workplace(architecture.name):
        factory = _callable(architecture, origin.factory(architecture.name))
        if num_classes is None:
            return _call(architecture, factory, given)
        return _with_classes(architecture, factory, given, num_classes)


def build_deferred(
    architecture: Architecture,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Blueprint:
    """The model without values: each is made when :attr:`Blueprint.initial` is called for it."""
    with DeferredInit(seed) as init:
        model = build(architecture, arguments=arguments, num_classes=num_classes)
    with named_errors(architecture.label):
        drawn = blueprint_of(model)
    state = model.state_dict()

    def initial(names: Iterable[str]) -> dict[str, torch.Tensor]:
        values = {name: state[name] for name in names}
        init.fill(values.values())
        return values

    return replace(drawn, label=architecture.label, initial=initial, architecture=architecture)


def _callable(architecture: Architecture, found: Any) -> Factory:
    if isinstance(found, nn.Module):
        return lambda: copy.deepcopy(found)
    if not callable(found):
        raise ArchitectureError(
            f"{architecture.label} is a {type(found).__name__}; expected a function or class that "
            "makes a model"
        )
    factory: Factory = found
    return factory


def _with_classes(
    architecture: Architecture, factory: Factory, arguments: dict[str, Any], num_classes: int
) -> nn.Module:
    if "num_classes" in arguments:
        raise ArchitectureError(
            f"{architecture.label}: num_classes is given twice, as an argument "
            f"({arguments['num_classes']!r}) and as the number of classes ({num_classes})"
        )
    # Timm knows what 0 classes are; others would make a layer without outputs, so they make one
    # with a single class, which is then taken off.
    wanted = num_classes if architecture.origin == "timm" else num_classes or 1
    named = _has_parameter(factory, "num_classes")
    model = _call(
        architecture, factory, {**arguments, "num_classes": wanted} if named else arguments
    )
    if not named or wanted != num_classes:
        with named_errors(architecture.label):
            replace_head(model, num_classes)
    return model


def _has_parameter(factory: Factory, name: str) -> bool:
    """Whether it is a parameter of its own; what ``**kwargs`` swallow may be lost in there."""
    try:
        found = inspect.signature(factory).parameters.get(name)
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def _call(architecture: Architecture, factory: Factory, arguments: dict[str, Any]) -> nn.Module:
    with named_errors(architecture.label):
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture.label} returned a {type(model).__name__}; expected a torch.nn.Module"
        )
    return model
