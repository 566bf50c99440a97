"""Adam with one adaptive learning rate for a whole tensor, not one for each of its elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from surgery.private_torch import (
    foreach_add_,
    foreach_addcmul_,
    foreach_div,
    foreach_div_,
    foreach_lerp_,
    foreach_mul,
    foreach_mul_,
    foreach_norm,
    foreach_sqrt,
    scalar_dtype,
    takes_foreach,
)


class LayerAdaptiveAdam(Optimizer):
    """Adam's moments, and a step along the first of them whose length one number decides.

    For every tensor, with ``g`` its gradient and the products taken element by element::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        p = p - lr * mean(|m| / (sqrt(v) + eps)) * m

    Adam divides each element of ``m`` by its own root of ``v``. Here the mean of those quotients
    scales all of ``m``, so that elements keep their proportions: a tensor whose gradients agree
    from step to step moves at the full learning rate, one whose gradients only jitter slows
    down. The formula is the "layer-wise adaptive learning rate" of fine-tuning tutorials, which
    publish it without bias correction and without weight decay; ``bias_correction=False`` and
    ``weight_decay=0`` give exactly that. Otherwise ``m / (1 - b1**t)`` and ``v / (1 - b2**t)``
    stand for ``m`` and ``v`` in the last line, and ``p`` is first multiplied by
    ``1 - lr * weight_decay``, which is AdamW's decoupled decay (Loshchilov and Hutter 2019,
    arXiv:1711.05101).

    The step is proportional to the gradient, so learning rates are nearer to SGD's than to
    Adam's. The state is that of :class:`torch.optim.Adam` (``step``, ``exp_avg``,
    ``exp_avg_sq``) and can be handed from one to the other. For layer-wise learning rates by the
    norm of the weights there are LAMB and LARS, ``timm:lamb`` and ``timm:lars`` in a rules file.

    ``foreach`` is None for torch's own choice: many tensors at once on accelerators, one after
    the other elsewhere; the two agree to rounding. Complex parameters count as pairs of real
    ones. Sparse gradients are a RuntimeError and bad values a ValueError, as in torch's Adam.

    >>> optimizer = LayerAdaptiveAdam(model.parameters(), lr=1e-2)
    >>> optimizer = surgery.build_optimizer(model, "base optimizer=surgery.optim:LayerAdaptiveAdam")
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        bias_correction: bool = True,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        _check("learning rate", lr, lr >= 0)
        _check("epsilon value", eps, eps >= 0)
        _check("beta parameter at index 0", betas[0], 0 <= betas[0] < 1)
        _check("beta parameter at index 1", betas[1], 0 <= betas[1] < 1)
        _check("weight_decay value", weight_decay, weight_decay >= 0)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in what a state of torch's Adam, or one from before an option existed, lacks."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("bias_correction", True)
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)
            for parameter in group["params"]:
                kept = self.state.get(parameter, {})
                if kept and not torch.is_tensor(kept["step"]):
                    kept["step"] = torch.tensor(float(kept["step"]), dtype=scalar_dtype())

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; a closure computes the loss and its gradients again and is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            members = [self._member(p, group) for p in group["params"] if p.grad is not None]
            if _takes_foreach(group, members):
                batches = _of_one_kind(members)
            else:
                batches = [[member] for member in members]
            for batch in batches:
                _step_together(batch, group)
        return loss

    def _member(self, parameter: Tensor, group: Mapping[str, Any]) -> _Member:
        """A parameter with its state, which starts here and not in the constructor."""
        grad = parameter.grad
        assert grad is not None
        if grad.is_sparse:
            raise RuntimeError("LayerAdaptiveAdam does not support sparse gradients")
        state = self.state[parameter]
        if not state:
            # On the CPU: a counter on an accelerator would cost a kernel for each parameter.
            state["step"] = torch.tensor(0.0, dtype=scalar_dtype())
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return _Member(
            _real(parameter),
            _real(-grad if group["maximize"] else grad),
            _real(state["exp_avg"]),
            _real(state["exp_avg_sq"]),
            state["step"],
        )


@dataclass(frozen=True, slots=True)
class _Member:
    """One parameter in one step. ``grad`` points downhill, and complex tensors are pairs."""

    parameter: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


def _check(what: str, value: object, fits: bool) -> None:
    """In the words of torch's Adam. A tensor would be read, with a sync, once a step."""
    if isinstance(value, Tensor):
        raise ValueError(f"Invalid {what}: a tensor, expected a number")
    if not fits:
        raise ValueError(f"Invalid {what}: {value}")


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if torch.is_complex(tensor) else tensor


def _takes_foreach(group: Mapping[str, Any], members: Sequence[_Member]) -> bool:
    if group["foreach"] is not None:
        return bool(group["foreach"])
    return takes_foreach([member.parameter for member in members])


def _of_one_kind(members: Sequence[_Member]) -> list[list[_Member]]:
    """Members of one device and one dtype, which is what foreach kernels take."""
    found: dict[object, list[_Member]] = {}
    for member in members:
        key = member.parameter.device, member.parameter.dtype, member.exp_avg.dtype
        found.setdefault(key, []).append(member)
    return list(found.values())


def _corrections(step: Tensor, group: Mapping[str, Any]) -> tuple[float, float]:
    """What to divide ``m`` and the root of ``v`` by, as Adam does in its first steps."""
    if not group["bias_correction"]:
        return 1.0, 1.0
    beta1, beta2 = group["betas"]
    t = step.item()
    return 1 - beta1**t, math.sqrt(1 - beta2**t)


def _step_together(members: Sequence[_Member], group: Mapping[str, Any]) -> None:
    """One operation over all members after the other."""
    beta1, beta2 = group["betas"]
    parameters = [member.parameter for member in members]
    grads = [member.grad for member in members]
    exp_avgs = [member.exp_avg for member in members]
    exp_avg_sqs = [member.exp_avg_sq for member in members]
    foreach_add_([member.step for member in members], 1)
    corrections = [_corrections(member.step, group) for member in members]
    if group["weight_decay"]:
        foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    foreach_lerp_(exp_avgs, grads, 1 - beta1)
    foreach_mul_(exp_avg_sqs, beta2)
    foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
    quotients = foreach_sqrt(exp_avg_sqs)
    foreach_div_(quotients, [root for _, root in corrections])
    foreach_add_(quotients, group["eps"])
    quotients = foreach_div(exp_avgs, quotients)
    # float16 holds no sum of more than 65,504 quotients near 1.
    wide = torch.promote_types(exp_avgs[0].dtype, torch.float32)
    scales = foreach_norm(quotients, 1, dtype=wide)
    # The correction of m counts twice: in the quotient and in m itself.
    factors = [
        -group["lr"] / first**2 / max(member.exp_avg.numel(), 1)
        for (first, _), member in zip(corrections, members, strict=True)
    ]
    foreach_mul_(scales, factors)
    foreach_add_(parameters, foreach_mul(exp_avgs, scales))
