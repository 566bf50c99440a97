"""Which layers a model's output comes through.

Registration order says in which order a person wrote layers down; the output says which of them
is the last. ``torch.fx`` runs the model's own ``forward`` on stand-ins, so no input is needed;
where a forward cannot be run that way, nothing is said.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from surgery.heads.places import Place
from surgery.skeleton import skeleton

# Asking for a tensor's shape is no use of its values: these end the walk.
_SHAPE_METHODS = frozenset({"size", "dim", "ndimension", "numel", "new_zeros", "new_ones"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device"})

# Joining outputs side by side: each layer then holds only some of the classes.
_JOINS = frozenset({"cat", "concat", "concatenate", "hstack", "stack"})


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor that the model returns.

    ``layers`` are the last layers with class rows that it comes through, in registration order;
    ``others`` names whatever else with values of its own lies that close to the output: a norm
    behind the head, a per-class bias, an input. ``joined`` says that layers lie side by side.
    """

    layers: tuple[Place, ...]
    others: tuple[str, ...]
    joined: bool

    @property
    def classes(self) -> int | None:
        """How many class rows it has and nothing else, in one layer or in equals that are summed,
        not joined; None for any other output.
        """
        widths = {place.classes for place in self.layers}
        alone = len(self.layers) == 1 or not self.joined
        return widths.pop() if not self.others and len(widths) == 1 and alone else None

    def __str__(self) -> str:
        closest = (*(place.slots[0] for place in self.layers), *self.others)
        first, *rest = closest or ("nothing with a weight",)
        more = f", and {len(rest)} more as close: {', '.join(rest[:3])}"
        return f"{first}{more if rest else ''}"


def outputs(
    model: nn.Module, places: Mapping[str, Place], *, training: bool
) -> tuple[Output, ...] | None:
    """Where each tensor that ``model`` returns comes from; None where its forward resists.

    Runs on a copy whose tensors are on the meta device, with the random state put back:
    ``model`` and its values stay untouched whatever the forward does.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a run that nobody sees
        try:
            trial = skeleton(model).train(training)
            graph = _trace(trial)
        except Exception:  # anybody's forward may fail in any way on what is no tensor
            return None
    (end,) = (node for node in graph.nodes if node.op == "output")
    return tuple(_walk_back(node, trial, places) for node in dict.fromkeys(end.all_input_nodes))


class _Tracer(fx.Tracer):
    """Modules without children are not entered: their insides are no business of the walk, and
    often what cannot be traced.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = next(m.children(), None) is None
        return childless or bool(super().is_leaf_module(m, module_qualified_name))


def _trace(model: nn.Module) -> fx.Graph:
    """Optional arguments keep their defaults."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return _Tracer().trace(model, concrete_args=defaults or None)


def _walk_back(end: fx.Node, model: nn.Module, places: Mapping[str, Place]) -> Output:
    slots: set[str] = set()
    others: dict[str, None] = {}
    joined = False
    known = {slot for place in places.values() for slot in place.slots}
    pending, seen = [end], {end}
    while pending:
        node = pending.pop()
        joined |= node.op == "call_function" and getattr(node.target, "__name__", "") in _JOINS
        if node.op == "call_module" and str(node.target) in known:
            slots.add(str(node.target))
        elif _has_own_values(node, model):
            others[str(node.target)] = None
        elif not _asks_for_shape(node):
            fresh = [source for source in node.all_input_nodes if source not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    layers = tuple(place for place in places.values() if slots.intersection(place.slots))
    return Output(layers, tuple(others), joined)


def _has_own_values(node: fx.Node, model: nn.Module) -> bool:
    """Single numbers, a learned temperature, do not count: they know no classes."""
    tensors: Iterable[torch.Tensor] = ()
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        tensors = (*module.parameters(), *module.buffers())
    elif node.op == "get_attr":
        tensors = (operator.attrgetter(str(node.target))(model),)
    return node.op == "placeholder" or any(tensor.numel() > 1 for tensor in tensors)


def _asks_for_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES
