"""Training for a while, and then as if it had never been."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING

from surgery.errors import TrainingError
from surgery.training.generators import generator_states, restore_generators

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

#: Puts one thing back to what it was when this was made.
Undo = Callable[[], None]


@contextmanager
def restored(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Bit for bit, however the block ends, what training in it changes:

    parameters, buffers (BatchNorm's statistics are some), gradients, ``requires_grad`` and the
    train or eval mode of every module, held norms included; the optimizer's state, groups and
    counters, an inner optimizer's too; and the random states of torch, on the CPU and on GPUs in
    use, of Python and of NumPy.

    Objects stay the same objects. Gradients are None when the block starts. It costs a copy of
    the model and of the optimizer's state. What the model or a data loader keep elsewhere, in
    plain attributes or their own generators, is not known here.
    """
    parameters = _parameters(model, optimizer)
    with ExitStack() as undo:
        # Last in, first out: values come back when the objects that hold them are back.
        undo.callback(_keep_random_states())
        undo.callback(_keep_values(chain(parameters, model.buffers())))
        undo.callback(_keep_gradients(parameters))
        undo.callback(_keep_modules(model))
        undo.callback(_keep_optimizer(optimizer, parameters))
        yield


def _parameters(model: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """The model's, and those that the optimizer has besides; each once."""
    from torch.nn.parameter import is_lazy

    trained = (parameter for group in optimizer.param_groups for parameter in group["params"])
    found = list({id(p): p for p in chain(model.parameters(), trained)}.values())
    if any(map(is_lazy, found)):
        raise TrainingError("parameters have no shape yet: run a batch through the model first")
    return found


def _keep_values(tensors: Iterable[Tensor]) -> Undo:
    import torch

    kept = [(tensor, tensor.detach().clone()) for tensor in tensors if not _is_expanded(tensor)]

    def undo() -> None:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)

    return undo


def _is_expanded(tensor: Tensor) -> bool:
    """Whether elements share memory: such a tensor cannot be written to, by anyone."""
    import torch

    if tensor.layout != torch.strided:
        return False
    return any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _keep_gradients(parameters: Iterable[nn.Parameter]) -> Undo:
    kept = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    # DDP's gradients are views of its buckets, which the next backward pass writes to.
    values = _keep_values([gradient for _, _, gradient in kept if gradient is not None])
    for parameter, _, _ in kept:
        parameter.grad = None

    def undo() -> None:
        for parameter, requires_grad, gradient in kept:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        values()

    return undo


def _keep_modules(model: nn.Module) -> Undo:
    """Modes, and which objects the parameters and buffers are: some modules assign new buffers."""
    kept = [
        (module, module.training, dict(module._parameters), dict(module._buffers))
        for module in model.modules()
    ]

    def undo() -> None:
        for module, training, parameters, buffers in kept:
            module.training = training
            module._parameters.update(parameters)
            module._buffers.update(buffers)

    return undo


def _keep_optimizer(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> Undo:
    """Let it work on copies of its state and groups, so that the originals are never touched.

    Loading a state dict back would not do: it casts the state to the parameters' dtype.
    """
    optimizers = [optimizer, *inner_optimizers(optimizer)]
    kept = [(one, dict(vars(one))) for one in optimizers]
    memo = {id(parameter): parameter for parameter in parameters}
    copies = [deepcopy((one.state, one.param_groups), memo) for one in optimizers]
    for one, (state, groups) in zip(optimizers, copies, strict=True):
        one.state, one.param_groups = state, groups

    def undo() -> None:
        for one, attributes in kept:
            vars(one).clear()
            vars(one).update(attributes)

    return undo


def inner_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """Those that a wrapper (Lookahead, accelerate's) drives."""
    import torch

    return [one for one in vars(optimizer).values() if isinstance(one, torch.optim.Optimizer)]


def _keep_random_states() -> Undo:
    import numpy as np

    python, numpy, torch = random.getstate(), np.random.get_state(), generator_states()

    def undo() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        restore_generators(torch)

    return undo
