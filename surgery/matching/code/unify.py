"""Bring two programs together, operator by operator in the order of the target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from surgery.matching.code.fingerprints import align_columns, align_elements, close
from surgery.matching.code.origins import Origins
from surgery.matching.code.program import Operation, Program, Value, expression, is_eps
from surgery.matching.code.rows import Group
from surgery.matching.code.side import Side, Unknown
from surgery.matching.code.uses import Use, root
from surgery.matching.recipes.recipe import squeezed
from surgery.private_torch import Operator

#: A way to look through what leaves a value the same.
See = Callable[[Value, Side], Value]


@dataclass(frozen=True, slots=True)
class Scalar:
    """An operator that both networks apply to the same data, with another number in it."""

    source: Operation
    target: Operation
    source_number: float
    target_number: float


@dataclass
class Unification:
    """What was found: where the target's numbers come from, which uses have no counterpart, and
    why.
    """

    source: Side
    target: Side
    origins: Origins
    failures: dict[Use, str] = field(default_factory=dict)
    doubts: dict[Use, str] = field(default_factory=dict)
    scalars: list[Scalar] = field(default_factory=list)
    stopped: str = ""

    def forget_doubts(self) -> None:
        """Open again what was only assumed, and what nothing that follows confirms: a norm on the
        same data is the same norm only where what takes it is the same too.
        """
        confirmed = self._confirmed()
        for use in self.target.matched:
            if use in self.doubts or use.operation not in confirmed:
                self.doubts.setdefault(use, "nothing that follows confirms it")
                for part in (use.elements, *use.parts):
                    if part is not None:
                        self.origins.open(part)

    def _before_heads(self) -> list[Value]:
        """What the last uses take, or the outputs are, where that is the same in both networks."""
        ours, theirs = (
            [*(use.data for use in _last_uses(side)), *side.program.outputs]
            for side in (self.source, self.target)
        )
        wanted = [self.source.fingerprint(value) for value in ours]
        return [
            value
            for value in theirs
            if self.target.is_known(value) and self.target.fingerprint(value) in wanted
        ]

    def _confirmed(self) -> set[Operation]:
        """All operations whose results a use of rows takes that has its counterpart, or that lead
        to an output by one use at most, in both networks.
        """
        found: set[Operation] = set()
        waiting = [
            *self._before_heads(),
            *(
                value
                for use in self.target.matched
                if use.kind == "rows" and use not in self.doubts
                for value in (use.data, use.operation.outputs[0])
            ),
        ]
        while waiting:
            operation = waiting.pop().made_by
            if operation is not None and operation not in found:
                found.add(operation)
                waiting += operation.data
        return found


def unify(source: Program, target: Program) -> Unification:
    """Find the origin of every number of the target that the source has, as far as the two
    compute the same.
    """
    return _Unifier(source, target).run()


class _Unifier:
    def __init__(self, source: Program, target: Program) -> None:
        self.source = Side(source, source.weights, source.recorded)
        self.target = Side(target, target.weights.clone(), {})
        origins = Origins(self.target.weights, source.weights)
        self.found = Unification(self.source, self.target, origins)
        self._rows: tuple[dict[Value, list[Use]], dict[Value, list[Use]]] = (
            _by_root(self.source),
            _by_root(self.target),
        )
        self._others: dict[tuple[str, int], list[Use]] = defaultdict(list)
        for use in self.source.uses.values():
            if use.kind != "rows":
                self._others[use.kind, use.data.numel].append(use)
        self._by_operator: dict[Operator, list[Operation]] = defaultdict(list)
        for operation in source.operations:
            self._by_operator[operation.function].append(operation)

    def run(self) -> Unification:
        with torch.no_grad():
            for operation in self.target.program.operations:
                if operation.outputs[0].kind != "data":
                    continue
                if all(map(self.target.is_known, operation.data)):
                    self._meet(operation)
                try:
                    self.target.compute(operation)
                except (RuntimeError, IndexError) as error:
                    self.found.stopped = f"{operation.name} in {operation.place}: {error}"
                    return self.found
        return self.found

    def _meet(self, operation: Operation) -> None:
        use = self.target.uses.get(operation)
        if use is None:
            self._adopt(operation)
        elif use not in self.target.matched:
            match = {
                "rows": self._match_rows,
                "elements": self._match_elements,
                "statistics": self._match_statistics,
                "cat": self._match_cat,
                "other": self._match_other,
            }[use.kind]
            try:
                match(use)
            except Unknown as problem:
                self.found.failures[use] = str(problem)
                return
        self.target.settle(operation)

    def _match_rows(self, use: Use) -> None:
        fingerprint = self.target.fingerprint(use.data)
        ours = [
            x
            for value, uses in self._rows[0].items()
            if value.numel == fingerprint.numel and self.source.fingerprint(value) == fingerprint
            for x in uses
            if x not in self.source.matched
        ]
        if not ours:
            raise Unknown("the source makes no product, convolution or embedding of this data")
        theirs = self._taking(use, len(ours))
        kinds = [{x.how for x in side} for side in (ours, theirs)]
        ours = [x for x in ours if x.how in kinds[1]]
        theirs = [x for x in theirs if x.how in kinds[0]]
        if use not in theirs:
            found = ", ".join(sorted({str(how[0]) for how in kinds[0]}))
            raise Unknown(f"the source has only {found} of other sizes on this data")
        doubt = Group((self.source, self.target), (ours, theirs)).match(self.found.origins)
        if doubt:
            self.found.doubts.update(dict.fromkeys(theirs, doubt))

    def _taking(self, use: Use, many: int) -> list[Use]:
        """The target's uses of rows on the same data; of an equal value too where it was computed
        twice.
        """
        here = root(use.data)
        found = [x for x in self._rows[1][here] if x not in self.target.matched]
        if len(found) == many and here.made_by is not None:
            return found
        fingerprint = self.target.fingerprint(use.data)
        return found + [
            x
            for value, uses in self._rows[1].items()
            if value is not here and value.numel == fingerprint.numel
            if self.target.is_known(value) and self.target.fingerprint(value) == fingerprint
            for x in uses
            if x not in self.target.matched
        ]

    def _match_elements(self, use: Use) -> None:
        for see in (_chain, _root) if use.name == "add" else (_root,):
            data = see(use.data, self.target)
            candidates = [x for x in self._candidates("elements", data, see) if x.name == use.name]
            for other in candidates:
                if self._align(other, use, see(other.data, self.source), data):
                    self._found(other, use)
                    return
        raise Unknown(f"the source has no {use.name} of a parameter on this data")

    def _align(self, source: Use, target: Use, one: Value, other: Value) -> bool:
        if source.elements is None or target.elements is None:
            return self._same_expressions(source, target)
        data, other_data = (
            _shaped(side.value(value), use)
            for side, value, use in (
                (self.source, one, source),
                (self.target, other, target),
            )
        )
        if close(data, other_data) and source.elements.shape == target.elements.shape:
            self.found.origins.put(target.elements, source.elements)
            return True
        order = align_elements(data, other_data)
        if order is None:
            return False
        try:
            ours = source.elements.broadcast_to(data.shape).reshape(-1)[order]
            theirs = target.elements.broadcast_to(other_data.shape).reshape(-1)
        except RuntimeError:
            return False
        pairs, counts = torch.stack([theirs, ours]).unique(dim=1, return_counts=True)  # type: ignore[no-untyped-call]
        # Where equal data stand at several places, what most of them say.
        most = pairs[:, counts.argsort(stable=True)]
        chosen = dict(zip(most[0].tolist(), most[1].tolist(), strict=True))
        if len({*chosen.values()}) != len(chosen) or len(chosen) != len(source.elements.unique()):  # type: ignore[no-untyped-call]
            return False
        self.found.origins.put(torch.tensor([*chosen]), torch.tensor([*chosen.values()]))
        return True

    def _same_expressions(self, source: Use, target: Use) -> bool:
        """Whether both compute their parameters in one way; then those they are computed from
        correspond.
        """
        ours, theirs = ([*map(expression, x.operation.parameters)] for x in (source, target))
        if [text for text, _ in ours] != [text for text, _ in theirs]:
            return False
        for (_, leaves), (_, others) in zip(ours, theirs, strict=True):
            for one, other in zip(leaves, others, strict=True):
                self.found.origins.put(
                    *(torch.arange(x.first, x.first + x.numel) for x in (other, one))
                )
        return True

    def _match_statistics(self, use: Use) -> None:
        for other in self._candidates("statistics", root(use.data), _root):
            one, theirs = (
                side.value(x.data).movedim(1, -1).flatten(0, -2)
                for side, x in ((self.source, other), (self.target, use))
            )
            columns = align_columns(one, theirs)
            if columns is None or [x is None for x in other.parts] != [
                x is None for x in use.parts
            ]:
                continue
            for part, there in zip(other.parts, use.parts, strict=True):
                if part is not None and there is not None:
                    self.found.origins.put(there, part[columns])
            self._take_scalars(other.operation, use.operation)
            self._found(other, use)
            return
        raise Unknown("the source has no batch norm on this data")

    def _match_cat(self, use: Use) -> None:
        for other in self._candidates("cat", root(use.data), _root):
            ours, theirs = other.operation.inputs, use.operation.inputs
            if len(ours) != len(theirs) or not all(map(self._is_part, ours, theirs)):
                continue
            for one, two in zip(other.parts, use.parts, strict=True):
                if one is not None and two is not None:
                    self.found.origins.put(two, one)
            self._found(other, use)
            return
        raise Unknown("the source puts no parameters beside this data")

    def _is_part(self, one: Value, two: Value) -> bool:
        if one.kind != two.kind:
            return False
        if one.kind == "parameter":
            return squeezed(one.shape) == squeezed(two.shape)
        return self.source.fingerprint(one) == self.target.fingerprint(two)

    def _match_other(self, use: Use) -> None:
        for other in self._candidates("other", root(use.data), _root):
            if other.name == use.name and self._same_expressions(other, use):
                self._found(other, use)
                return
        raise Unknown(f"{use.name} of a parameter cannot be followed")

    def _candidates(self, kind: str, data: Value, see: See) -> Iterator[Use]:
        fingerprint = self.target.fingerprint(data)
        for use in self._others[kind, fingerprint.numel]:
            value = see(use.data, self.source)
            if use not in self.source.matched and self.source.fingerprint(value) == fingerprint:
                yield use

    def _found(self, source: Use, target: Use) -> None:
        self.source.mark([source], matched=True)
        self.target.mark([target], matched=True)

    def _adopt(self, operation: Operation) -> None:
        """The same operator on the same data with another eps: the source's is taken."""
        if not operation.data or not any(map(is_eps, operation.arguments)):
            return
        wanted = [self.target.fingerprint(x) for x in operation.data]
        found: list[Operation] = []
        for other in self._by_operator[operation.function]:
            same_form = len(other.arguments) == len(operation.arguments)
            if (
                same_form
                and len(other.data) == len(wanted)
                and all(
                    x.numel == y.numel and self.source.fingerprint(x) == y
                    for x, y in zip(other.data, wanted, strict=True)
                )
            ):
                if other.scalars == operation.scalars:
                    return
                pairs = zip(other.scalars, operation.scalars, strict=False)
                if all(x == y or (is_eps(x) and is_eps(y)) for x, y in pairs):
                    found.append(other)
        if found:
            self._take_scalars(found[0], operation)

    def _take_scalars(self, source: Operation, target: Operation) -> None:
        arguments = [*target.arguments]
        for at, (one, two) in enumerate(zip(source.arguments, target.arguments, strict=True)):
            if one != two and is_eps(one) and is_eps(two):
                self.found.scalars.append(Scalar(source, target, one, two))
                arguments[at] = one
        target.arguments = arguments


def _last_uses(side: Side) -> list[Use]:
    """The uses of rows that make the outputs."""
    found = []
    for output in side.program.outputs:
        value = root(output)
        use = side.uses.get(value.made_by) if value.made_by else None
        if use is not None and use.is_bias:
            value = root(use.data)
            use = side.uses.get(value.made_by) if value.made_by else None
        if use is not None and use.kind == "rows":
            found.append(use)
    return found


def _root(value: Value, _: Side) -> Value:
    return root(value)


def _chain(value: Value, side: Side) -> Value:
    """What several parameters are added to, one after the other, in any order."""
    value = root(value)
    while value.made_by is not None:
        use = side.uses.get(value.made_by)
        if use is None or use.kind != "elements" or use.name != "add" or use.is_bias:
            break
        value = root(use.data)
    return value


def _shaped(data: torch.Tensor, use: Use) -> torch.Tensor:
    shape = use.operation.outputs[0].shape
    return data.reshape(shape) if data.numel() == torch.Size(shape).numel() else data


def _by_root(side: Side) -> dict[Value, list[Use]]:
    found: dict[Value, list[Use]] = defaultdict(list)
    for use in side.uses.values():
        if use.kind == "rows":
            found[root(use.data)].append(use)
    return found
