"""Adam with one adaptive learning rate for a whole tensor, not one for each of its elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.optimizer import ParamsT

from surgery.private_torch import (
    adam_members,
    foreach_add_,
    foreach_addcmul_,
    foreach_div,
    foreach_div_,
    foreach_lerp_,
    foreach_mul,
    foreach_mul_,
    foreach_norm,
    foreach_sqrt,
    takes_foreach,
)


class LayerAdaptiveAdam(Adam):
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
        # One would be read, with a sync, once a step.
        if any(isinstance(value, Tensor) for value in (lr, *betas, eps, weight_decay)):
            raise ValueError("Invalid setting: a tensor, expected numbers")
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            foreach=foreach,
            maximize=maximize,
            decoupled_weight_decay=True,
        )
        self.defaults["bias_correction"] = bias_correction
        for group in self.param_groups:
            group.setdefault("bias_correction", bias_correction)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in what a state of torch's Adam lacks, or one from before this was an Adam."""
        for group in state["param_groups"]:
            group.setdefault("decoupled_weight_decay", True)
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            group.setdefault("bias_correction", True)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step; a closure computes the loss and its gradients again and is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            members = adam_members(self, group)
            foreach = group["foreach"]
            if foreach is None:
                foreach = takes_foreach([parameter for parameter, *_ in members])
            batches: dict[object, list[tuple[Tensor, ...]]] = {}
            for index, member in enumerate(members):
                # Foreach kernels take tensors of one device and one dtype.
                kind = tuple((tensor.device, tensor.dtype) for tensor in member[:3])
                batches.setdefault(kind if foreach else index, []).append(member)
            for batch in batches.values():
                _step_together(batch, group)
        return loss


def _corrections(step: Tensor, group: Mapping[str, Any]) -> tuple[float, float]:
    """What to divide ``m`` and the root of ``v`` by, as Adam does in its first steps."""
    if not group["bias_correction"]:
        return 1.0, 1.0
    beta1, beta2 = group["betas"]
    t = step.item()
    return 1 - beta1**t, math.sqrt(1 - beta2**t)


def _step_together(members: Iterable[tuple[Tensor, ...]], group: Mapping[str, Any]) -> None:
    """One operation over all members after the other; complex ones are pairs of reals."""
    beta1, beta2 = group["betas"]
    parameters, grads, exp_avgs, exp_avg_sqs, steps = (
        [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in column]
        for column in zip(*members, strict=True)
    )
    if group["maximize"]:
        grads = list(foreach_mul(grads, -1))
    foreach_add_(steps, 1)
    corrections = [_corrections(step, group) for step in steps]
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
        -group["lr"] / first**2 / max(exp_avg.numel(), 1)
        for (first, _), exp_avg in zip(corrections, exp_avgs, strict=True)
    ]
    foreach_mul_(scales, factors)
    foreach_add_(parameters, foreach_mul(exp_avgs, scales))
