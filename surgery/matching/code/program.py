"""A network as a straight-line program: what it computes on one input, operator by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from surgery.private_torch import Operator, tree_unflatten

#: What a value depends on: the input, parameters alone, or neither.
Kind = Literal["data", "parameter", "constant"]


@dataclass(eq=False, slots=True)
class Value:
    """One tensor of a program. ``made_by`` is None for inputs, parameters and constants.

    ``held`` are the numbers of a constant or an input; those of everything else are computed.
    ``elements`` are the numbers of the parameter elements that it shows, -1 for a zero, where it
    is made of parameters by moves alone.
    """

    kind: Kind
    shape: tuple[int, ...]
    made_by: Operation | None = None
    output: int = 0
    held: torch.Tensor | None = None
    elements: torch.Tensor | None = None
    parameter: Parameter | None = None

    @property
    def numel(self) -> int:
        return int(torch.Size(self.shape).numel())


def expression(value: Value) -> tuple[str, tuple[Parameter, ...]]:
    """How a value is computed from parameters alone, as a text, and the parameters in order."""
    if value.parameter is not None:
        return f"p{value.shape}", (value.parameter,)
    if value.held is not None or value.made_by is None:
        return f"c{value.shape}", ()
    parts: list[str] = []
    leaves: list[Parameter] = []
    for argument in value.made_by.arguments:
        if isinstance(argument, Value):
            text, more = expression(argument)
            parts.append(text)
            leaves += more
        else:
            parts.append(str(argument))
    return f"{value.made_by.name}({', '.join(parts)})[{value.output}]", tuple(leaves)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operator stands: the module that ran it, and the line of its author's source."""

    module: str
    line: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.module or "the model", self.line)))


@dataclass(eq=False, slots=True)
class Operation:
    """One operator and what it was given: values where there were tensors."""

    index: int
    function: Operator
    arguments: Sequence[Any]
    form: Any
    outputs: tuple[Value, ...]
    place: Place

    @property
    def name(self) -> str:
        return str(self.function.overloadpacket.__name__)

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(x for x in self.arguments if isinstance(x, Value))

    @property
    def data(self) -> tuple[Value, ...]:
        return tuple(x for x in self.inputs if x.kind == "data")

    @property
    def parameters(self) -> tuple[Value, ...]:
        return tuple(x for x in self.inputs if x.kind == "parameter")

    @property
    def scalars(self) -> tuple[Any, ...]:
        """The arguments that are no tensors: sizes, axes, an eps."""
        return tuple(x for x in self.arguments if not isinstance(x, Value) and x is not None)

    def run(
        self, get: Callable[[Value], torch.Tensor], *, one_eps: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The outputs, for values that ``get`` gives; with one eps, where two networks are
        compared that may have two.
        """
        given = [
            get(x) if isinstance(x, Value) else EPS if one_eps and is_eps(x) else x
            for x in self.arguments
        ]
        args, kwargs = tree_unflatten(given, self.form)
        return tensors(self.function(*args, **kwargs))

    def given(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments in their own order, with values where there were tensors."""
        args, kwargs = tree_unflatten(list(self.arguments), self.form)
        return args, kwargs


#: What stands for every eps where it should not matter, and what is taken for one.
EPS = 1e-5
_LARGEST_EPS = 1e-2


def is_eps(argument: object) -> bool:
    """Whether an argument may be the small number that keeps a norm from dividing by zero."""
    return isinstance(argument, float) and 0 < argument < _LARGEST_EPS


def tensors(result: Any) -> tuple[torch.Tensor, ...]:
    """The tensors that an operator gave."""
    results = result if isinstance(result, tuple | list) else (result,)
    return tuple(x for x in results if isinstance(x, torch.Tensor))


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, or a statistic of a norm. Its elements are numbered from ``first`` on."""

    name: str
    shape: tuple[int, ...]
    first: int

    @property
    def numel(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Program:
    """What one network computes on one input.

    ``operations`` are those that an output depends on, in the order in which they ran;
    ``recorded`` are the values of that run.
    """

    parameters: tuple[Parameter, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Value, ...]
    weights: torch.Tensor
    recorded: Mapping[Value, torch.Tensor]
    consumers: Mapping[Value, Sequence[Operation]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        parameters: tuple[Parameter, ...],
        operations: Iterable[Operation],
        outputs: tuple[Value, ...],
        weights: torch.Tensor,
        recorded: Mapping[Value, torch.Tensor],
    ) -> Program:
        """The program without what no output depends on."""
        live = {*outputs}
        kept: list[Operation] = []
        for operation in reversed([*operations]):
            if not live.isdisjoint(operation.outputs):
                kept.append(operation)
                live.update(operation.inputs)
        kept.reverse()
        consumers: dict[Value, list[Operation]] = defaultdict(list)
        for index, operation in enumerate(kept):
            operation.index = index
            for value in dict.fromkeys(operation.inputs):
                consumers[value].append(operation)
        found = {value: tensor for value, tensor in recorded.items() if value in live}
        return cls(parameters, tuple(kept), outputs, weights, found, consumers)

    def giving(self, shapes: Iterable[tuple[int, ...]]) -> Program:
        """The same without outputs of other shapes; as it is where none has one of these."""
        wanted = {*shapes}
        outputs = tuple(x for x in self.outputs if x.shape in wanted) or self.outputs
        return Program.of(self.parameters, self.operations, outputs, self.weights, self.recorded)

    def parameter_of(self, element: int) -> Parameter:
        """The parameter that holds an element."""
        return next(x for x in reversed(self.parameters) if x.first <= element)


class Weights:
    """The numbers of a program's parameters, and of what is computed from them alone.

    ``flat`` may be written to; :meth:`changed` says so.
    """

    def __init__(self, program: Program, flat: torch.Tensor) -> None:
        self.flat = flat
        self._computed: dict[Value, torch.Tensor] = {}

    def changed(self) -> None:
        """Forget what was computed from the numbers before."""
        self._computed.clear()

    def value(self, value: Value) -> torch.Tensor:
        """The numbers of a value that depends on no input."""
        if value.held is not None:
            return value.held
        if value.parameter is not None:
            at = value.parameter
            return self.flat[at.first : at.first + at.numel].view(at.shape)
        if value not in self._computed:
            assert value.made_by is not None
            made = value.made_by.run(self.value)
            self._computed.update(zip(value.made_by.outputs, made, strict=True))
        return self._computed[value]
