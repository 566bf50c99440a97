"""The order in which a network's modules run: seen on a copy without memory, nothing computed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from surgery.networks.inputs import Example, examples

if TYPE_CHECKING:
    import torch
    from torch import nn


def running_order(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules in the order in which a forward pass first enters them.

    Empty where no input was found that the network runs on without values: one that looks at
    numbers to decide what to do, or that takes more than one argument. The model itself is not
    run, and stays as it is.
    """
    try:
        twin = _without_memory(model)
    except Exception:  # not everything can be copied; the order is then not known
        return ()
    for example in examples([twin]):
        if order := _entered(twin, example):
            return order
    return ()


def _without_memory(model: nn.Module) -> nn.Module:
    """A copy on the meta device, in eval mode; no parameter or buffer is copied on the way."""
    import torch
    from torch import nn

    memo: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    twin = copy.deepcopy(model, memo).eval().requires_grad_(False)
    for module in twin.modules():
        _forget_hooks(module)
    return twin


def _forget_hooks(module: nn.Module) -> None:
    """A person's hooks may note what passes; torch's own make weights of others."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number, hook in list(hooks.items()):
            home = getattr(hook, "__module__", "") or ""
            if not home.startswith("torch."):
                del hooks[number]


def _entered(twin: nn.Module, example: Example) -> tuple[str, ...]:
    import torch

    order: dict[str, None] = {}

    def entering(path: str) -> None:
        order.setdefault(path)

    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: entering(path))
        for path, module in twin.named_modules()
    ]
    shown = example.tensor.to("meta")
    if shown.is_floating_point():
        shown = shown.to(_dtype(twin))
    more = {name: value.to("meta") for name, value in example.keywords(twin).items()}
    try:
        with torch.no_grad():
            twin(shown, **more)
    except Exception:  # anybody's code may fail in any way: the order is then not known
        return ()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(order)


def _dtype(model: nn.Module) -> torch.dtype:
    import torch

    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())
