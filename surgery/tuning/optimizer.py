"""Groups and a model to a ready optimizer."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from surgery.errors import OptimizerError, SurgeryWarning
from surgery.tuning.groups import Group, ParamGroups
from surgery.tuning.optimizer_choice import find_optimizer
from surgery.tuning.resolve import resolve_groups
from surgery.tuning.rules import RulesSource
from surgery.tuning.training_state import apply_training_state, check_same_model
from surgery.wording import counted_names


def build_optimizer(
    model: nn.Module,
    rules: RulesSource | ParamGroups,
    *,
    transfer: object | None = None,
    optimizer: str | type[torch.optim.Optimizer] | None = None,
    **base: Any,
) -> torch.optim.Optimizer:
    """An optimizer whose groups are what :func:`surgery.resolve_groups` decides.

    Every group has its ``name``, its ``param_names`` and every hyper-parameter that the rules or
    ``base`` speak of. Frozen parameters are left out; those of ``unfreeze@N`` are in from the
    start, without a gradient until someone gives them one. ``requires_grad`` is set on the
    model, and frozen norms are held in eval mode, see :mod:`surgery.tuning.training_state`.
    Nothing is changed where an error is raised. What probably was not meant is a
    :class:`~surgery.errors.SurgeryWarning`: parameters that the model came frozen with, new ones
    at the learning rate of loaded ones, and the like.

    ``rules`` may also be groups that were resolved before; everything else is in them already.

    >>> optimizer = surgery.build_optimizer(model, "rules.txt", lr=3e-4)
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('layer4', 3e-05), ('fc', 0.0003)]
    """
    if not isinstance(rules, ParamGroups):
        groups = resolve_groups(model, rules, transfer=transfer, optimizer=optimizer, base=base)
    elif transfer is not None or base:
        raise OptimizerError("resolved groups are complete: give transfer and base to them instead")
    elif optimizer is not None and find_optimizer(optimizer).kind is not rules.choice.kind:
        raise OptimizerError(
            f"resolved groups are complete, and for {rules.optimizer}: give the optimizer to them "
            "instead"
        )
    else:
        groups = rules
    built = make_optimizer(model, groups)
    apply_training_state(model, groups)
    for risk in groups.risks:
        warnings.warn(risk, SurgeryWarning, stacklevel=2)
    return built


def make_optimizer(model: nn.Module, groups: ParamGroups) -> torch.optim.Optimizer:
    """The optimizer alone; the model is not touched."""
    check_same_model(model, groups)
    trained = {name for group in groups.trained for name in group.param_names}
    if not groups.groups:
        raise OptimizerError("the model has no parameters: there is nothing to optimize")
    if not trained:
        raise OptimizerError(
            "every parameter is frozen: there is nothing to optimize",
            [f"{group.name}: {_frozen_by(group)}" for group in groups.groups],
        )
    parameters = {name: p for name, p in model.named_parameters() if name in trained}
    _check_kind(groups.choice.kind, model, parameters)
    made = [
        {
            "params": [parameters[name] for name in group.param_names],
            "name": group.name,
            "param_names": list(group.param_names),
            **dict(group.hyper),
        }
        for group in groups.trained
    ]
    return groups.choice.build_checked(made, dict(groups.base))


def _frozen_by(group: Group) -> str:
    if group.frozen_by_model:
        return f"the model has requires_grad off; write `{group.name} train`"
    return ", ".join(line.text for line in group.lines)


def _check_kind(kind: type, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    """Optimizers for one kind of parameter: torch's own words name no parameter, or come late."""
    if issubclass(kind, torch.optim.Muon):
        unfit = [name for name, parameter in parameters.items() if parameter.ndim != 2]
        reason = "takes matrices only (timm:muon trains the rest as AdamW does)"
    elif issubclass(kind, torch.optim.SparseAdam):
        sparse = {
            id(parameter)
            for module in model.modules()
            if getattr(module, "sparse", False)
            for parameter in module.parameters(recurse=False)
        }
        unfit = [name for name, parameter in parameters.items() if id(parameter) not in sparse]
        reason = "takes sparse gradients only, those of nn.Embedding(sparse=True)"
    else:
        return
    if unfit:
        raise OptimizerError(f"{kind.__name__} {reason}: freeze the other {counted_names(unfit)}")
