"""One of two networks while they are brought together: what is known of its values."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import torch

from surgery.matching.code.fingerprints import Fingerprint, fingerprint
from surgery.matching.code.program import Operation, Program, Value, Weights
from surgery.matching.code.uses import Use, root, uses_of


class Unknown(Exception):
    """A value cannot be computed yet, not even with stand-ins."""


class Side:
    """A program with numbers for its weights, and the uses that have found their counterpart.

    A value is known when every use before it has one. ``values`` are the numbers of a run; those
    that are not there are computed when they are asked for.
    """

    def __init__(
        self, program: Program, flat: torch.Tensor, values: Mapping[Value, torch.Tensor]
    ) -> None:
        self.program = program
        self.uses = uses_of(program)
        self.weights = Weights(program, flat)
        self.values = dict(values)
        self.matched: set[Use] = set()
        self._known: set[Value] = set()
        self._fingerprints: dict[Value, Fingerprint] = {}

    def value(self, value: Value) -> torch.Tensor:
        """The numbers of a value that is known."""
        if value.kind != "data":
            return self.weights.value(value)
        if value.held is not None:
            return value.held
        if value not in self.values:
            assert value.made_by is not None
            self.compute(value.made_by)
        return self.values[value]

    def compute(self, operation: Operation) -> None:
        """Run an operation whose inputs are known."""
        made = operation.run(self.value)
        self.values.update(zip(operation.outputs, made, strict=True))

    def fingerprint(self, value: Value) -> Fingerprint:
        """Of a value that is known, in any order."""
        value = root(value)
        if value not in self._fingerprints:
            self._fingerprints[value] = fingerprint(self.value(value))
        return self._fingerprints[value]

    def is_known(self, value: Value) -> bool:
        """Whether all uses that a value depends on have their counterpart."""
        return self._is_known(value, {})

    def _is_known(self, value: Value, looked: dict[Value, bool]) -> bool:
        if value.kind != "data" or value.made_by is None or value in self._known:
            return True
        if value not in looked:
            use = self.uses.get(value.made_by)
            looked[value] = (use is None or use in self.matched) and all(
                self._is_known(x, looked) for x in value.made_by.data
            )
        return looked[value]

    def settle(self, operation: Operation) -> None:
        """Remember that what an operation gives is known for good."""
        self._known.update(operation.outputs)

    def mark(self, uses: Sequence[Use], *, matched: bool) -> None:
        """Count uses of rows, with their biases, as matched or not."""
        both = {x for use in uses for x in (use, use.bias) if x is not None}
        if matched:
            self.matched |= both
        else:
            self.matched -= both


def stand_in(use: Use, data: torch.Tensor, variant: int = 0) -> torch.Tensor:
    """What a use of rows could give: the same for every row, and nothing but the data decides it.

    ``variant`` distinguishes single rows.
    """
    pace = 1.1 + 0.37 * variant
    if use.how[0] == "embedding":
        return (data.double() * (0.7 + 0.37 * variant)).sin().unsqueeze(-1)
    mixed = 2 * (pace * data + 0.3).sin()
    if use.axis == -1:
        return mixed.mean(-1, keepdim=True)
    if use.axis == 0:
        return mixed.mean(0, keepdim=True)
    mixed = mixed.mean(1, keepdim=True)
    if use.how[0] == "linear" and not use.patch:
        return mixed
    (_, weight, _, stride, padding, dilation, transposed, more, _), _ = use.operation.given()
    kernel = tuple(weight.shape[2:])
    ones = torch.full((1, 1, *kernel), 1 / torch.Size(kernel).numel(), dtype=torch.float64)
    found: torch.Tensor = torch.ops.aten.convolution(
        mixed, ones, None, stride, padding, dilation, transposed, more, 1
    )
    return found


def downstream(side: Side, outputs: Mapping[Operation, torch.Tensor]) -> list[torch.Tensor]:
    """What reaches the next uses of rows, and the end, when some uses give these outputs.

    What is not known on the way does nothing: terms are zero, factors one, norms leave what they
    get.
    """
    consumers = side.program.consumers
    made: dict[Value, torch.Tensor] = {}
    reached: set[Value] = set()
    blocked: set[Value] = set()
    stops: dict[Value, torch.Tensor] = {}
    queue: list[int] = []
    waiting: set[int] = set()

    def pass_on(values: Sequence[Value], *, block: bool) -> None:
        for value in values:
            reached.add(value)
            if block:
                blocked.add(value)
            for operation in consumers.get(value, ()):
                if operation.index not in waiting:
                    waiting.add(operation.index)
                    heapq.heappush(queue, operation.index)

    def get(value: Value) -> torch.Tensor:
        if value in made:
            return made[value]
        if side.is_known(value):
            return side.value(value)
        assert value.made_by is not None
        run(value.made_by)
        return made[value]

    def run(operation: Operation) -> None:
        use = side.uses.get(operation)
        unknown = use is not None and use not in side.matched
        result = (
            _neutral(use, get) if use is not None and unknown else operation.run(get, one_eps=True)
        )
        made.update(zip(operation.outputs, result, strict=False))

    for operation, output in outputs.items():
        made[operation.outputs[0]] = output
        pass_on(operation.outputs[:1], block=False)
    ends = {*side.program.outputs}
    while queue:
        operation = side.program.operations[heapq.heappop(queue)]
        if operation in outputs:
            continue
        use = side.uses.get(operation)
        if not blocked.isdisjoint(operation.data):
            pass_on(operation.outputs, block=True)
        elif use is not None and use.kind in ("rows", "other"):
            stops[root(use.data)] = get(use.data)
            pass_on(operation.outputs, block=True)
        else:
            try:
                run(operation)
            except (Unknown, RuntimeError, IndexError):
                pass_on(operation.outputs, block=True)
                continue
            pass_on(operation.outputs, block=False)
            for value in ends.intersection(operation.outputs):
                stops[root(value)] = made[value]
    return list(stops.values())


def _neutral(use: Use, get: Callable[[Value], torch.Tensor]) -> tuple[torch.Tensor, ...]:
    operation = use.operation
    if use.kind == "rows":
        return (stand_in(use, get(use.data)).expand(operation.outputs[0].shape),)
    if use.kind == "statistics":
        return (get(use.data).expand(operation.outputs[0].shape),)
    if use.kind == "other":
        raise Unknown(operation.name)
    number = 1.0 if use.name in ("mul", "div") else 0.0

    def without(value: Value) -> torch.Tensor:
        if value.kind == "parameter":
            return torch.full(value.shape, number, dtype=torch.float64)
        return get(value)

    return operation.run(without, one_eps=True)
