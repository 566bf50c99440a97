"""A live model as a blueprint: what it is made of, and the values that it holds."""

from __future__ import annotations

from functools import cache, partial

from torch import nn

from surgery.checkpoint.tensors.memory import versions_of
from surgery.heads import head_paths
from surgery.networks.describe import describe
from surgery.networks.running_order import running_order
from surgery.networks.unfilled import Blueprint


def blueprint_of(model: nn.Module) -> Blueprint:
    """Its values are the model's as it is when they are wanted; nothing in it is changed."""
    spec = describe(model)
    state = model.state_dict()
    return Blueprint(
        spec,
        cache(partial(head_paths, model)),  # some heads are only seen in a run
        versions_of(state),
        extras={name: state[name] for name in state if name not in spec.by_name},
        initial=lambda names: {name: state[name] for name in names},
        find_order=partial(running_order, model),
    )
