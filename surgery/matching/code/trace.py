"""Run a network once on an input and write down what it does.

Its weights are stand-ins: random numbers of usual sizes, in float64. The network itself, its
weights, mode, buffers and random state stay as they were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, functionalize
from torch.nn.attention import SDPBackend, sdpa_kernel

from surgery.matching.code.normal_forms import CONSTRUCTORS, FORMS, MOVES, aten
from surgery.matching.code.program import (
    Kind,
    Operation,
    Parameter,
    Place,
    Program,
    Value,
    is_eps,
    tensors,
)
from surgery.networks.forgetting import forgetting
from surgery.private_torch import (
    DispatchMode,
    Operator,
    tree_flatten,
    tree_leaves,
    writes_to_itself,
)

_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})
#: Whose lines are no author's.
_NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
#: What a norm keeps beside its parameters, or in their place where it is frozen.
_STATISTICS = frozenset({"running_mean", "running_var", "weight", "bias"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a model is called with."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def trace(model: nn.Module, arguments: Arguments, seed: int) -> Program:
    """The program of a network on one input, with stand-ins of a seed for its weights.

    Whatever the network raises comes out.
    """
    leaves = leaves_of(model)
    parameters, first = [], 0
    for name, tensor in leaves.items():
        parameters.append(Parameter(name, tuple(tensor.shape), first))
        first += tensor.numel()
    weights = torch.cat([torch.zeros(0), *(x.reshape(-1) for x in stand_ins(leaves, seed))])
    return record(model, arguments, tuple(parameters), weights, even_choice=True)


def record(
    model: nn.Module,
    arguments: Arguments,
    parameters: tuple[Parameter, ...],
    weights: torch.Tensor,
    *,
    even_choice: bool = False,
    numbers: Mapping[tuple[str, Place], float] | None = None,
) -> Program:
    """The program of a network on one input, with these weights.

    With ``even_choice`` experts are chosen without a look at the values. ``numbers`` are those to
    take in place of an operator's own eps.
    """
    recorder = Recorder(model, even_choice=even_choice, numbers=numbers or {})
    state: dict[str, torch.Tensor] = {
        name: buffer.double() if buffer.is_floating_point() else buffer
        for name, buffer in model.named_buffers()
    }
    for at in parameters:
        tensor = weights[at.first : at.first + at.numel].view(at.shape)
        state[at.name] = tensor
        elements = torch.arange(at.first, at.first + at.numel).view(at.shape)
        recorder.add(tensor, Value("parameter", at.shape, elements=elements, parameter=at))
    for tensor in tree_leaves((arguments.args, arguments.kwargs)):
        if isinstance(tensor, torch.Tensor):
            recorder.add(tensor, Value("data", tuple(tensor.shape), held=tensor))

    def call(state: dict[str, torch.Tensor], args: Any, kwargs: Any) -> Any:
        return tree_leaves(functional_call(model, state, args, kwargs))

    with _undisturbed(model), recorder:
        found = functionalize(call)(state, arguments.args, dict(arguments.kwargs))
        outputs = [recorder.value(x) for x in found if isinstance(x, torch.Tensor)]
    kept = tuple(dict.fromkeys(x for x in outputs if x.kind == "data" and x.numel > 1))
    return Program.of(parameters, recorder.operations, kept, weights, recorder.recorded())


def leaves_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint gives a network, each under its first name: parameters, and
    what norms keep.
    """
    saved = model.state_dict(keep_vars=True)
    buffers = {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in saved and name.rpartition(".")[2] in _STATISTICS
    }
    return {
        name: tensor
        for name, tensor in [*model.named_parameters(), *buffers.items()]
        if tensor.is_floating_point() and tensor.numel()
    }


def has_rounded_tables(model: nn.Module) -> bool:
    """Whether a network keeps numbers that it once computed and rounded to float32, such as the
    angles of a rotary embedding.
    """
    leaves = {id(x) for x in leaves_of(model).values()}
    noted = (x for module in model.modules() for x in vars(module).values())
    tables = [*model.buffers(), *(x for x in noted if isinstance(x, torch.Tensor))]
    return any(map(_is_rounded, (x for x in tables if id(x) not in leaves)))


def _is_rounded(table: torch.Tensor) -> bool:
    if table.is_meta or table.numel() < 2 or not (table.is_floating_point() or table.is_complex()):
        return False
    real = (torch.view_as_real(table) if table.is_complex() else table).detach().double()
    real = real[real.isfinite()]
    coarse = real * 4096
    return bool((coarse != coarse.round()).any() and (real == real.float()).all())


def stand_ins(leaves: Mapping[str, torch.Tensor], seed: int) -> Iterator[torch.Tensor]:
    """Random numbers in place of weights: matrices that keep the size of what goes through them,
    and positive numbers for all else, so that nothing is cut off whole.
    """
    generator = torch.Generator().manual_seed(seed)
    for leaf in leaves.values():
        shape = tuple(leaf.shape)
        if len(shape) < 2 or shape[-1] == 1 == leaf.numel() // max(shape):
            yield 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
            continue
        fan = (shape[0] * shape[1]) ** 0.5 if len(shape) == 2 else leaf.numel() / shape[0]
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        yield drawn * (1.2 / fan**0.5)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode and float64, without gradients or fused attention; all is put back."""
    dtype, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(forgetting(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.set_default_dtype, dtype)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        torch.backends.mha.set_fastpath_enabled(False)
        # What was kept of an earlier run in eval mode goes when a network is trained again.
        model.train()
        model.eval()
        yield


class Recorder(DispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that runs, in the forms of
    :mod:`~surgery.matching.code.normal_forms`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        even_choice: bool,
        numbers: Mapping[tuple[str, Place], float],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.even_choice = even_choice
        self._numbers = numbers
        self.operations: list[Operation] = []
        self._paths = {id(module): path for path, module in model.named_modules()}
        # Tensors stay alive while they are known by their identity: another would get it.
        self._known: dict[int, tuple[torch.Tensor, Value]] = {}
        self._tensors: dict[Value, torch.Tensor] = {}

    def add(self, tensor: torch.Tensor, value: Value) -> Value:
        self._known[id(tensor)] = tensor, value
        self._tensors[value] = tensor
        return value

    def value(self, tensor: torch.Tensor) -> Value:
        """What is known of a tensor; one that comes from nowhere is a constant."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        return self.add(tensor, Value("constant", tuple(tensor.shape), held=tensor))

    def recorded(self) -> dict[Value, torch.Tensor]:
        """The values that depend on the input, as they were in this run."""
        return {value: x for value, x in self._tensors.items() if value.kind == "data"}

    def kind(self, tensor: torch.Tensor) -> Kind:
        return self.value(tensor).kind

    def terms(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The two that a parameter and something else were added up from, if it is no parameter
        any more.
        """
        value = self.value(tensor)
        made = value.made_by
        if value.elements is not None or made is None or made.name != "add" or made.scalars:
            return []
        return [self._tensors[x] for x in made.inputs]

    def repeats(self, tensor: torch.Tensor) -> bool:
        """Whether a parameter is one matrix again and again along its first axis."""
        elements = self.value(tensor).elements
        return elements is not None and bool((elements == elements[:1]).all())

    def __torch_dispatch__(
        self,
        func: Operator,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        if writes_to_itself(func):
            return self._write(func, args, kwargs)
        form = FORMS.get(func.overloadpacket)
        if form is not None:
            made = form(self, *args, **kwargs)
            if made is not NotImplemented:
                return made
        return self(func, *args, **kwargs)

    def _write(self, function: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Some operators write in place inside of torch: the same as a new value, which the tensor
        has from then on.
        """
        new = getattr(aten, function.overloadpacket.__name__.removesuffix("_"), None)
        new = getattr(new, str(function).rpartition(".")[2], None)
        if new is None or all(self.kind(x) == "constant" for x in args if _is_tensor(x)):
            return function(*args, **kwargs)
        tensor, before = args[0], self.value(args[0])
        made = self(new, *args, **kwargs)
        kept = tensor.clone()
        self._tensors[before] = kept
        before.held = kept if before.held is not None else None
        tensor.copy_(made)
        self.add(tensor, self.value(made))
        return tensor

    def __call__(self, function: Operator, *args: Any, **kwargs: Any) -> Any:
        """Run one operator and write it down."""
        place = self._place()
        number = self._numbers.get((function.overloadpacket.__name__, place))
        if number is not None:
            args = tuple(number if is_eps(x) else x for x in args)
        result = _run(function, args, kwargs)
        given, form = tree_flatten((args, kwargs))
        arguments = [self.value(x) if isinstance(x, torch.Tensor) else x for x in given]
        values = [x for x in arguments if isinstance(x, Value)]
        kinds = {x.kind for x in values}
        made = tensors(result)
        if not made or kinds <= {"constant"} or function.overloadpacket in CONSTRUCTORS:
            return result
        kind: Kind = "data" if "data" in kinds else "parameter"
        operation = Operation(len(self.operations), function, arguments, form, (), place)
        operation.outputs = tuple(
            self.add(tensor, Value(kind, tuple(tensor.shape), operation, at))
            for at, tensor in enumerate(made)
        )
        if kind == "parameter":
            _follow(operation, values)
        self.operations.append(operation)
        return result

    def _place(self) -> Place:
        """The innermost module that runs, and the innermost line that is not torch's."""
        frame, module, line = sys._getframe(2), None, ""
        while frame is not None and not (line and module is not None):
            code = frame.f_code
            if module is None and code.co_varnames[:1] == ("self",):
                module = self._paths.get(id(frame.f_locals.get("self")))
            if not line and not code.co_filename.startswith(_NOT_THEIRS):
                line = f"{Path(code.co_filename).name}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return Place(module or "", line)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _run(function: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator; where it takes no two precisions, in the higher one."""
    try:
        return function(*args, **kwargs)
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        wide = [x.double() if _is_tensor(x) and x.is_floating_point() else x for x in args]
        return function(*wide, **kwargs)


def _follow(operation: Operation, values: Sequence[Value]) -> None:
    """Move the numbers of elements as their values are moved."""
    if any(x.kind == "parameter" and x.elements is None for x in values):
        return
    if operation.name == "add" and len(values) == 2 and not operation.scalars:
        added = [x.held for x in values if x.held is not None]
        if added and not bool(added[0].any()):  # zeros that make an axis longer
            (own,) = (x.elements for x in values if x.elements is not None)
            operation.outputs[0].elements = own.expand(operation.outputs[0].shape)
        return
    if operation.function.overloadpacket not in MOVES:
        return

    def elements(value: Value) -> torch.Tensor:
        if value.elements is not None:
            return value.elements
        assert value.held is not None
        if value.held.is_floating_point():
            return torch.full(value.held.shape, -1)
        return value.held

    moved: tuple[torch.Tensor, ...]
    if operation.function.overloadpacket is aten._to_copy:
        moved = (elements(values[0]),)
    elif operation.function.overloadpacket is aten.constant_pad_nd:
        args, _ = operation.given()
        moved = (aten.constant_pad_nd(elements(args[0]), args[1], -1),)
    else:
        moved = operation.run(elements)
    for output, tensor in zip(operation.outputs, moved, strict=True):
        output.elements = tensor
