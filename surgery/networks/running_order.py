"""The order in which a network's modules run: seen on a copy without memory, nothing computed."""

from __future__ import annotations

import torch
from torch import nn

from surgery.networks.inputs import Example, examples
from surgery.private_torch import hooks_of
from surgery.skeleton import skeleton


def running_order(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules in the order in which a forward pass first enters them.

    Empty where no input was found that the network runs on without values: one that looks at
    numbers to decide what to do, or that takes more than one argument. The model itself is not
    run, and stays as it is.
    """
    try:
        twin = skeleton(model).eval().requires_grad_(False)
    except Exception:  # not everything can be copied; the order is then not known
        return ()
    for module in twin.modules():
        _forget_hooks(module)
    for example in examples([twin]):
        if order := _entered(twin, example):
            return order
    return ()


def _forget_hooks(module: nn.Module) -> None:
    """A person's hooks may note what passes; torch's own make weights of others."""
    for hooks in hooks_of(module):
        for number, hook in list(hooks.items()):
            home = getattr(hook, "__module__", "") or ""
            if not home.startswith("torch."):
                del hooks[number]


def _entered(twin: nn.Module, example: Example) -> tuple[str, ...]:
    order: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: order.setdefault(path))
        for path, module in twin.named_modules()
    ]
    shown = example.tensor.to("meta")
    if shown.is_floating_point():
        floating = (p.dtype for p in twin.parameters() if p.is_floating_point())
        shown = shown.to(next(floating, torch.get_default_dtype()))
    try:
        more = {name: value.to("meta") for name, value in example.keywords(twin).items()}
        with torch.no_grad():
            twin(shown, **more)
    except Exception:  # anybody's code may fail in any way: the order is then not known
        return ()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(order)
