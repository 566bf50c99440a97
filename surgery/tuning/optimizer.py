"""Groups and a model to a ready optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import OptimizerError, did_you_mean
from surgery.tuning.groups import Group, ParamGroups, resolve_groups
from surgery.tuning.optimizer_names import find_optimizer
from surgery.tuning.rules import RulesSource
from surgery.tuning.training_state import apply_training_state

if TYPE_CHECKING:
    import torch
    from torch import nn


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
    model, and frozen norms are held in eval mode, see
    :func:`surgery.tuning.apply_training_state`. Nothing is changed where an error is raised.

    ``rules`` may also be groups that were resolved before; everything else is in them already.

    >>> optimizer = surgery.build_optimizer(model, "rules.txt", lr=3e-4)
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('layer4', 3e-05), ('fc', 0.0003)]
    """
    if isinstance(rules, ParamGroups):
        groups = _as_resolved(rules, transfer, base)
    else:
        groups = resolve_groups(model, rules, transfer=transfer, optimizer=optimizer, base=base)
    built = make_optimizer(model, groups, optimizer)
    apply_training_state(model, groups)
    return built


def make_optimizer(
    model: nn.Module,
    groups: ParamGroups,
    optimizer: str | type[torch.optim.Optimizer] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer alone; the model is not touched."""
    choice = find_optimizer(optimizer or groups.optimizer)
    parameters = _trained_parameters(model, groups)
    _check_kind(choice.name, model, parameters)
    return choice.build_checked(
        [_torch_group(group, parameters) for group in groups.trained], dict(groups.base)
    )


def _as_resolved(groups: ParamGroups, transfer: object | None, base: dict[str, Any]) -> ParamGroups:
    if transfer is not None or base:
        raise OptimizerError("resolved groups are complete: give transfer and base to them instead")
    return groups


def _trained_parameters(model: nn.Module, groups: ParamGroups) -> dict[str, nn.Parameter]:
    """What the optimizer is to have, by name; it must be there, and be something at all."""
    names = [name for group in groups.trained for name in group.param_names]
    if not names:
        raise OptimizerError(
            "every parameter is frozen: there is nothing to optimize",
            [
                f"{group.name}: {', '.join(line.text for line in group.lines)}"
                for group in groups.groups
            ],
        )
    parameters = dict(model.named_parameters())
    missing = [name for name in names if name not in parameters]
    if missing:
        raise OptimizerError(
            f"these groups are another model's: {missing[0]!r} is no parameter of this one"
            f"{did_you_mean(missing[0], parameters)}"
        )
    return {name: parameters[name] for name in names}


def _torch_group(group: Group, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    return {
        "params": [parameters[name] for name in group.param_names],
        "name": group.name,
        "param_names": list(group.param_names),
        **dict(group.hyper),
    }


def _check_kind(optimizer: str, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    """Optimizers for one kind of parameter: torch's own words name no parameter, or come late."""
    if optimizer == "Muon":
        unfit = [name for name, parameter in parameters.items() if parameter.ndim != 2]
        reason = "takes matrices only (timm:muon trains the rest as AdamW does)"
    elif optimizer == "SparseAdam":
        sparse = _sparse_parameters(model)
        unfit = [name for name, parameter in parameters.items() if id(parameter) not in sparse]
        reason = "takes sparse gradients only, those of nn.Embedding(sparse=True)"
    else:
        return
    if unfit:
        names = ", ".join(unfit[:3]) + (", ..." if len(unfit) > 3 else "")
        raise OptimizerError(
            f"{optimizer} {reason}: freeze the other {len(unfit)} parameters", [names]
        )


def _sparse_parameters(model: nn.Module) -> set[int]:
    return {
        id(parameter)
        for module in model.modules()
        if getattr(module, "sparse", False)
        for parameter in module.parameters(recurse=False)
    }
