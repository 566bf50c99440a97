"""A live module to its :class:`~surgery.specs.ModelSpec`: names, shapes and types, no values; and
to a :class:`~surgery.networks.unfilled.Blueprint`, with the values that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from surgery.checkpoint.tensors.memory import versions_of
from surgery.errors import SurgeryError
from surgery.heads import head_paths
from surgery.heads.places import inner_model, names_by_tensor
from surgery.networks.running_order import running_order
from surgery.networks.unfilled import Blueprint
from surgery.specs import ModelSpec, ModuleSpec, ParameterSpec, TensorSpec


def blueprint_of(model: nn.Module) -> Blueprint:
    """Its values are the model's as it is when they are wanted; nothing in it is changed.

    Raises as :func:`describe` does.
    """
    spec = describe(model)
    state = model.state_dict()
    return Blueprint(
        type(model).__name__,
        spec,
        cache(partial(head_paths, model)),  # some heads are only seen in a run
        initial=lambda names: {name: state[name] for name in names},
        find_order=partial(running_order, model),
        versions=versions_of(state),
        extras={name: state[name] for name in state if name not in spec.by_name},
    )


def describe(model: nn.Module) -> ModelSpec:
    """What planning needs to know of ``model``; the model and its values stay untouched.

    Raises :class:`~surgery.errors.SurgeryError` for lazy layers, which have no shapes yet.

    >>> describe(torch.nn.Linear(3, 2)).tensors
    (TensorSpec(name='weight', shape=(2, 3), dtype='float32'),
     TensorSpec(name='bias', shape=(2,), dtype='float32'))
    """
    own = (*model.named_parameters(), *model.named_buffers())
    if lazy := [name for name, tensor in own if is_lazy(tensor)]:
        raise SurgeryError(
            f"{lazy[0]} is lazy and has no shape yet: run one batch through the model first, in "
            "the factory where one makes it"
        )
    # State dicts also carry a module's ``_extra_state``, which may be anything.
    entries = model.state_dict(keep_vars=True).items()
    state = {name: value for name, value in entries if isinstance(value, torch.Tensor)}
    return ModelSpec(
        tensors=tuple(TensorSpec.of(name, value) for name, value in state.items()),
        parameters=_parameters(model, state),
        modules=tuple(
            spec
            for path, module in model.named_modules()
            if (spec := _module(path, module)) is not None
        ),
        computed=tuple(name for name, _ in model.named_buffers() if name not in state),
        shared_buffers=tuple(
            tuple(names)
            for names in names_by_tensor(model.named_buffers(remove_duplicate=False)).values()
            if len(names) > 1
        ),
    )


def _parameters(model: nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[ParameterSpec, ...]:
    # Some wrappers (activation checkpointing) go by other names in state dicts than in modules.
    names = names_by_tensor((*model.named_parameters(remove_duplicate=False), *state.items()))
    depths = _layer_depths(model)
    return tuple(
        ParameterSpec(
            TensorSpec.of(name, parameter),
            aliases=tuple(dict.fromkeys(names[id(parameter)])),
            trainable=parameter.requires_grad,
            depth=depths.get(id(parameter)),
        )
        for name, parameter in model.named_parameters()
    )


def _layer_depths(model: nn.Module) -> dict[int, int]:
    """Parameter (by id) to layer index, 0 at the input, by the matcher that timm's models carry.

    The same call that ``timm.optim.param_groups_layer_decay`` makes. Empty where the model has
    no matcher of its own.
    """
    model = inner_model(model)
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        return {}
    from timm.models import group_parameters

    depths = group_parameters(model, matcher(coarse=False), reverse=True)
    return {id(model.get_parameter(name)): depth for name, depth in depths.items()}


def _module(path: str, module: nn.Module) -> ModuleSpec | None:
    """None for a module that only holds others: no rule or report has anything to say of it."""
    owns_parameters = any(True for _ in module.parameters(recurse=False))
    owns_buffers = any(True for _ in module.buffers(recurse=False))
    shadowed = "requires_grad" in module.__dict__
    if not (owns_parameters or owns_buffers or shadowed):
        return None
    bases = (base for base in type(module).__mro__ if issubclass(base, nn.Module))
    types = tuple(base.__name__ for base in bases if base is not nn.Module)
    return ModuleSpec(
        path,
        types,
        norm=owns_parameters and _is_norm(module, types),
        has_statistics=getattr(module, "running_mean", None) is not None,
        shadowed=shadowed,
    )


def _is_norm(module: nn.Module, types: tuple[str, ...]) -> bool:
    """By class, since names lie (bn1, ln_1, normalization).

    Other libraries' norms are known by their class name, as long as their parameters are one
    value a channel: a block called ``...Norm...`` that owns a matrix is no norm.
    """
    if isinstance(module, nn.LayerNorm):  # may normalise over several axes
        return True
    return any("norm" in name.lower() for name in types) and all(
        sum(size > 1 for size in parameter.shape) <= 1
        for parameter in module.parameters(recurse=False)
    )
