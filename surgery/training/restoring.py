"""Training for a while, and then as if it had never been."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from surgery.errors import TrainingError
from surgery.private_torch import own_buffers, own_parameters
from surgery.training.generators import generator_states, restore_generators


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
    import numpy as np

    parameters = _parameters(model, optimizer)
    modules = [(m, m.training, {**own_parameters(m)}, {**own_buffers(m)}) for m in model.modules()]
    gradients = [(p, p.requires_grad, p.grad) for p in parameters]
    # Gradients too: DDP's are views of its buckets, which the next backward pass writes to.
    tensors = chain(parameters, model.buffers(), (g for *_, g in gradients if g is not None))
    values = [(one, one.detach().clone()) for one in tensors if not _is_expanded(one)]
    optimizers = [(one, dict(vars(one))) for one in (optimizer, *inner_optimizers(optimizer))]
    states = random.getstate(), np.random.get_state(), generator_states()
    try:
        for parameter in parameters:
            parameter.grad = None
        # Copies, so that the originals are never touched. Loading a state dict back would not
        # do: it casts the state to the parameters' dtype.
        memo = {id(parameter): parameter for parameter in parameters}
        copies = [deepcopy((one.state, one.param_groups), memo) for one, _ in optimizers]
        for (one, _), (state, groups) in zip(optimizers, copies, strict=True):
            one.state, one.param_groups = state, groups
        yield
    finally:
        for one, kept in optimizers:
            vars(one).clear()
            vars(one).update(kept)
        # Some modules assign new buffers: the objects come back, and then their values.
        for module, training, own, buffers in modules:
            module.training = training
            own_parameters(module).update(own)
            own_buffers(module).update(buffers)
        for parameter, requires_grad, gradient in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])
        restore_generators(states[2])


def _parameters(model: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """The model's, and those that the optimizer has besides; each once."""
    trained = (parameter for group in optimizer.param_groups for parameter in group["params"])
    found = list({id(p): p for p in chain(model.parameters(), trained)}.values())
    if any(map(is_lazy, found)):
        raise TrainingError("parameters have no shape yet: run a batch through the model first")
    return found


def _is_expanded(tensor: Tensor) -> bool:
    """Whether elements share memory: such a tensor cannot be written to, by anyone."""
    if tensor.layout != torch.strided:
        return False
    return any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def inner_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """Those that a wrapper (Lookahead, accelerate's) drives."""
    return [one for one in vars(optimizer).values() if isinstance(one, Optimizer)]
