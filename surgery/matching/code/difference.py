"""Where two networks part: the first operator that only one of them applies."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from surgery.matching.code.normal_forms import VIEWS
from surgery.matching.code.program import Operation, Place, Value
from surgery.matching.code.unify import Unification

#: As far as this the same may be computed in another order.
_NEAR = 40


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """The first operator of the target that the source does not apply to the same data.

    ``source`` is what the source does with it, where it does one thing; ``values`` are the
    arguments that are no tensors, of the source and of the target. ``after`` is the place where
    both last were equal.
    """

    operator: str
    target: Place
    source_operator: str
    source: Place | None
    values: tuple[tuple[Any, ...], tuple[Any, ...]]
    after: Place | None

    def __str__(self) -> str:
        target = f"{self.operator}{_said(self.values[1])} in {self.target}"
        if not self.source_operator:
            text = f"{target} has no counterpart"
        else:
            text = f"{target}; the source has {self.source_operator}{_said(self.values[0])}"
            text += f" in {self.source}"
        return text + (f"; the same up to {self.after}" if self.after else "")

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON values."""
        return {
            "operator": self.operator,
            "target": str(self.target),
            "target_values": [*map(str, self.values[1])],
            "source_operator": self.source_operator,
            "source": str(self.source) if self.source else None,
            "source_values": [*map(str, self.values[0])],
            "after": str(self.after) if self.after else None,
        }


def _said(values: tuple[Any, ...]) -> str:
    return f" {', '.join(map(str, values))}" if values else ""


def first_difference(found: Unification) -> FirstDifference | None:
    """Where the target first computes something else; None where all that it computes of known
    data is the source's too.
    """
    return _Parting(found).find()


class _Parting:
    def __init__(self, found: Unification) -> None:
        self.source, self.target = found.source, found.target
        self._by_size: dict[int, list[Value]] = defaultdict(list)
        for value in self.source.program.recorded:
            self._by_size[value.numel].append(value)
        self._known: dict[Value, list[Value]] = {}

    def find(self) -> FirstDifference | None:
        last: Operation | None = None
        for operation in self.target.program.operations:
            output = operation.outputs[0]
            if output.kind != "data" or operation.function.overloadpacket in VIEWS:
                continue
            if not self._was_computed(operation):
                break
            if self._counterparts(output):
                last = operation
            elif all(map(self._counterparts, operation.data)) and not self._meets_again(operation):
                return self._difference(operation, last)
        return None

    def _was_computed(self, operation: Operation) -> bool:
        return all(x in self.target.values or x.held is not None for x in operation.data)

    def _counterparts(self, value: Value) -> list[Value]:
        """The source's values that are the same numbers."""
        if value not in self._known:
            if value not in self.target.values and value.held is None:
                return []
            fingerprint = self.target.fingerprint(value)
            self._known[value] = [
                x
                for x in self._by_size[fingerprint.numel]
                if self.source.fingerprint(x) == fingerprint
            ]
        return self._known[value]

    def _meets_again(self, operation: Operation) -> bool:
        """Whether what follows is known again: the same in another order of operators."""
        reached = {*operation.outputs}
        followed = 0
        for later in self.target.program.operations[operation.index + 1 :]:
            if reached.isdisjoint(later.data):
                continue
            followed += 1
            if later.outputs[0].numel > 1 and self._counterparts(later.outputs[0]):
                return True
            reached.update(later.outputs)
            if followed > _NEAR:
                break
        return False

    def _difference(self, operation: Operation, last: Operation | None) -> FirstDifference:
        there = {x for value in operation.data for x in self._counterparts(value)}
        others = [
            x
            for x in self.source.program.operations
            if not there.isdisjoint(x.data) and x.function.overloadpacket not in VIEWS
        ]
        named = [x for x in others if x.name == operation.name]
        unmatched = [x for x in named if not self._is_the_targets(x)]
        other = next(
            iter(unmatched or named or [x for x in others if not self._is_the_targets(x)]), None
        )
        return FirstDifference(
            operation.name,
            operation.place,
            other.name if other else "",
            other.place if other else None,
            (other.scalars if other else (), operation.scalars),
            last.place if last else None,
        )

    def _is_the_targets(self, operation: Operation) -> bool:
        """Whether the target computes the same value somewhere."""
        value = operation.outputs[0]
        if value not in self.source.values:
            return False
        fingerprint = self.source.fingerprint(value)
        return any(
            x.numel == fingerprint.numel and self.target.fingerprint(x) == fingerprint
            for x in self.target.values
        )
