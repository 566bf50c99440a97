"""Which layers a model's output comes through.

Registration order says in which order a person wrote layers down; the output says which of them
is the last. ``torch.fx`` runs the model's own ``forward`` on stand-ins, so no input is needed;
where a forward cannot be run that way, nothing is said.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.heads.layers import class_shape

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

# What somebody's forward raises when it meets a stand-in where it wanted a tensor, and deepcopy
# where a model cannot be copied: whatever Python and torch raise about values. What is no matter
# of values (a missing file, no memory) is not among them and goes through.
_UNTRACEABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Asking for a tensor's shape is no use of its values: these end the walk.
_SHAPE_METHODS = frozenset({"size", "dim", "ndimension", "numel", "new_zeros", "new_ones"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device"})

# Joining outputs side by side: each layer then holds only some of the classes.
_JOINS = frozenset({"cat", "concat", "concatenate", "hstack", "stack"})


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor that the model returns.

    ``layers`` are the real paths of the last layers with class rows that it comes through;
    ``others`` names whatever else with values of its own lies that close to the output: a norm
    behind the head, a per-class bias, an input. ``joined`` says that layers lie side by side.
    """

    layers: tuple[str, ...]
    others: tuple[str, ...]
    joined: bool


def outputs(model: nn.Module, *, training: bool) -> tuple[Output, ...] | None:
    """Where each tensor that ``model`` returns comes from; None where its forward resists.

    Runs on a copy whose tensors are on the meta device, with the random state put back:
    ``model`` and its values stay untouched whatever the forward does.
    """
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a run that nobody asked for
        try:
            trial = skeleton(model).train(training)
            graph = _trace(trial)
        except _UNTRACEABLE:
            return None
    (end,) = (node for node in graph.nodes if node.op == "output")
    return tuple(_walk_back(node, trial) for node in dict.fromkeys(end.all_input_nodes))


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that costs no memory: ``deepcopy`` is told each tensor's stand-in,
    a tensor of the same shape on the meta device.
    """
    import torch
    from torch import nn

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        data = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _trace(model: nn.Module) -> fx.Graph:
    """Modules without children are not entered: their insides are no business of the walk, and
    often what cannot be traced. Optional arguments keep their defaults.
    """
    from torch import fx

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            childless = next(m.children(), None) is None
            return childless or bool(super().is_leaf_module(m, module_qualified_name))

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return Tracer().trace(model, concrete_args=defaults or None)


def _walk_back(end: fx.Node, model: nn.Module) -> Output:
    layers: dict[str, None] = {}
    others: dict[str, None] = {}
    joined = False
    pending, seen = [end], {end}
    while pending:
        node = pending.pop()
        joined |= _function_name(node) in _JOINS
        if node.op == "call_module" and class_shape(model.get_submodule(str(node.target))):
            layers[str(node.target)] = None
        elif _has_own_values(node, model):
            others[str(node.target)] = None
        elif not _asks_for_shape(node):
            fresh = [source for source in node.all_input_nodes if source not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    return Output(tuple(layers), tuple(others), joined)


def _has_own_values(node: fx.Node, model: nn.Module) -> bool:
    """Single numbers, a learned temperature, do not count: they know no classes."""
    if node.op == "placeholder":
        return True
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return _any_vector((*module.parameters(), *module.buffers()))
    if node.op == "get_attr":
        return _any_vector((operator.attrgetter(str(node.target))(model),))
    return False


def _any_vector(tensors: Iterable[torch.Tensor]) -> bool:
    return any(tensor.numel() > 1 for tensor in tensors)


def _asks_for_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def _function_name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""
