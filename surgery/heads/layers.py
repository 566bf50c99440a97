"""Layers whose rows are classes: what they look like, and the same layer with other rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from surgery.private_torch import own_buffers, own_parameters, set_own

#: What libraries and people call the number of classes on a model or on its head.
COUNT_NAMES = ("num_classes", "n_classes", "nb_classes", "num_labels", "n_labels")

#: What a layer, or a head that ends in one, calls the width of its output.
WIDTH_NAMES = ("out_features", "out_channels")


def class_shape(module: nn.Module) -> tuple[int, int, bool] | None:
    """(features in, classes out, whether each place of the input is classified by itself, as by a
    Linear or a convolution with a kernel of 1); None where the first axis of the layer's weight is
    not its output.

    Read from the layer's settings, not from its weight: a parametrised weight is computed on
    access, and a lazy or quantised one has another shape.
    """
    layer: Any = module
    if isinstance(module, nn.Linear):
        return layer.in_features, layer.out_features, True
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.in_channels, layer.out_channels, math.prod(layer.kernel_size) == 1
    return None


def why_not_rebuildable(module: nn.Module, inputs: int, classes: int) -> str | None:
    """Why no layer like ``module`` can be made with other rows; None where one can.

    Each reason names a way in which a layer that looks plain would come back broken.
    """
    kind = type(module).__name__
    weight = own_parameters(module).get("weight")
    if weight is None:
        tensors = sorted(name for name, _ in (*module.named_parameters(), *module.named_buffers()))
        return (
            f"its weight is computed ({', '.join(tensors)}):"
            " remove the parametrisation, swap, and put it back"
        )
    if is_lazy(weight):
        return f"{kind} has not seen an input yet: run one batch first"
    if getattr(module, "groups", 1) != 1:
        return "a grouped convolution shares its inputs out among its rows"
    plain = weight.is_floating_point() or weight.is_complex()
    if not plain or tuple(weight.shape[:2]) != (classes, inputs):
        found = f"{'x'.join(map(str, weight.shape))} {str(weight.dtype).removeprefix('torch.')}"
        return f"{kind} stores its weight as {found} (quantised or sharded): swap before that"
    if "forward" in vars(module):
        return "its forward was replaced on the instance, and would go on calling the old layer"
    return _foreign_state(module, classes)


def _foreign_state(module: nn.Module, classes: int) -> str | None:
    """A subclass's own tensors are carried over, unless they too hold one entry per class."""
    kind = type(module).__name__
    for name, child in module.named_children():
        return f"{kind} holds another module, {name} ({type(child).__name__})"
    for name, tensor in {**own_parameters(module), **own_buffers(module)}.items():
        per_class = tensor is not None and classes in tensor.shape
        if per_class and name not in ("weight", "bias"):
            return f"{kind} cannot be rebuilt: {name} also has {classes} entries"
    return None


def rebuild(
    layer: nn.Module,
    old_classes: int,
    classes: int,
    kept: Sequence[tuple[int, int]],
    initialise: Callable[[nn.Module], object] | None,
) -> nn.Module:
    """A layer like ``layer`` with ``classes`` rows, of which ``kept`` (new, old) are carried over.

    Class, settings, hooks (with their handles), mode, dtype, device and ``requires_grad`` stay
    those of ``layer``, which itself stays untouched. Fresh rows come from the layer's own
    ``reset_parameters``, then from ``initialise`` where the architecture has an opinion.
    """
    new = copy.copy(layer)
    # The copy shares its registries with the original: these two it gets for itself.
    parameters = {
        name: _parameter_like(old, classes if name in ("weight", "bias") else None)
        for name, old in own_parameters(layer).items()
    }
    buffers = {n: None if old is None else old.clone() for n, old in own_buffers(layer).items()}
    set_own(new, parameters, buffers)
    set_count(new, old_classes, classes, (*COUNT_NAMES, *WIDTH_NAMES))
    with torch.no_grad():
        cast("Any", new).reset_parameters()
        if initialise is not None:
            initialise(new)
        for name in ("weight", "bias") if kept else ():
            rows, old_rows = own_parameters(new).get(name), own_parameters(layer).get(name)
            if rows is not None and old_rows is not None:
                to, out_of = map(list, zip(*kept, strict=True))
                rows[to] = old_rows[out_of]
    return new


def _parameter_like(old: nn.Parameter | None, rows: int | None) -> nn.Parameter | None:
    if old is None:
        return None
    data = old.detach()
    new = data.clone() if rows is None else data.new_empty((rows, *data.shape[1:]))
    return nn.Parameter(new, requires_grad=old.requires_grad)


def set_count(module: nn.Module, old: int, new: int, names: Sequence[str]) -> None:
    """Write ``new`` where ``module`` holds ``old`` in a plain attribute of one of these names."""
    for name in names:
        held = vars(module).get(name)
        if type(held) is int and held == old:
            setattr(module, name, new)
