"""Groups onto a model: what has a gradient, and which norms keep still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.errors import OptimizerError, did_you_mean
from surgery.tuning.groups import ParamGroups

if TYPE_CHECKING:
    from torch import nn


def apply_training_state(model: nn.Module, groups: ParamGroups, epoch: int = 0) -> None:
    """Set ``requires_grad`` and hold or release norms as the groups want it in ``epoch``.

    Call it again at an epoch that a rule names by ``unfreeze@N``, or with other groups: a norm
    that these no longer hold takes up the model's own mode. Frozen parameters lose their
    gradient, which would otherwise stay and count in ``clip_grad_norm_``.

    Raises :class:`~surgery.errors.OptimizerError`, with nothing changed, for another model.
    """
    check_same_model(model, groups)
    parameters = dict(model.named_parameters())
    for group in groups.groups:
        trains = epoch >= group.first_epoch
        for name in group.param_names:
            parameters[name].requires_grad_(trains)
            if not trains:
                parameters[name].grad = None
    held = set(groups.bn_eval_at(epoch))
    for path, module in model.named_modules():
        if path in held:
            hold_in_eval(module)
        elif is_held(module):
            del module.__dict__["train"]
            module.train(model.training)


def check_same_model(model: nn.Module, groups: ParamGroups) -> None:
    """Raise :class:`~surgery.errors.OptimizerError` unless the parameters are the groups', all."""
    decided = {h.parameter.name: h.parameter.tensor.shape for h in groups.histories}
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    problems = []
    for name in dict.fromkeys((*decided, *found)):
        if name not in found:
            problems.append(f"{name!r} is no parameter of this one{did_you_mean(name, found)}")
        elif name not in decided:
            problems.append(f"{name!r} has no group")
        elif decided[name] != found[name]:
            problems.append(f"{name!r} was {decided[name]} and is {found[name]} now")
    if problems:
        raise OptimizerError(f"these groups are another model's: {problems[0]}", problems[1:4])


def hold_in_eval(module: nn.Module) -> None:
    """Keep one module in eval mode through every later ``train()``; its children follow as ever.

    An attribute of the instance shadows ``train``. Class, parameters, buffers and the state
    dict stay as they are, and compilers see nothing but ``training=False``. Deep copies and
    pickles hold their own module. What builds a module anew forgets it: convert to
    SyncBatchNorm first.
    """
    if not is_held(module):
        module.train = _StaysInEval(module)  # type: ignore[method-assign]
    module.train(module.training)


def is_held(module: nn.Module) -> bool:
    """Whether :func:`hold_in_eval` has a hold on this module."""
    return isinstance(module.__dict__.get("train"), _StaysInEval)


class _StaysInEval:
    """Stands where ``module.train`` was."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        type(self.module).train(self.module, mode)
        self.module.training = False
        return self.module
