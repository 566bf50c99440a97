"""Scopes: a module of the source and one of the target that hold the same network.

Repeated blocks are looked at together: a column is one path inside the block, over all pairs of
blocks that have the same names around them. What one block leaves open (a projection and a
shortcut of one shape) another one tells.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.matching.structure.layers import Layer, Path

#: A number for what a column holds in every scope; equal kinds are equal shapes throughout.
Kind = int
#: What a module holds: kinds of columns and how many of each, sorted.
Content = tuple[tuple[Kind, int], ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One module: its path, and the layers in it by their path from there."""

    prefix: Path
    layers: Mapping[Path, Layer]

    def below(self, node: Path, paths: Iterable[Path]) -> Side:
        """The module at ``node``, with those of ``paths`` that are here."""
        found = {path[len(node) :]: self.layers[path] for path in paths if path in self.layers}
        return Side((*self.prefix, *node), found)

    @property
    def unwrapped(self) -> Side:
        """The innermost module that holds the same layers."""
        shared = next(iter(self.layers), ())[:-1]
        for path in self.layers:
            while path[: len(shared)] != shared:
                shared = shared[:-1]
        return self.below(shared, self.layers)


@dataclass(frozen=True, slots=True)
class Scope:
    """A pair of modules, and why they are one; whole networks are one without a reason."""

    sides: tuple[Side, Side]
    why: str = ""

    @property
    def template(self) -> tuple[str, ...]:
        """The modules' paths with every number left open."""
        return tuple(re.sub(r"\d+", "#", ".".join(side.prefix)) for side in self.sides)

    @property
    def depth(self) -> int:
        return sum(len(side.prefix) for side in self.sides)

    @property
    def unwrapped(self) -> Scope:
        """The same pair without modules that hold one module and nothing else."""
        return Scope((self.sides[0].unwrapped, self.sides[1].unwrapped), self.why)


class Columns:
    """Scopes that are solved as one: of either side, the kind of each column, and one layer of it
    from the first scope that has it.
    """

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self.scopes = scopes
        self.kinds: list[dict[Path, Kind]] = []
        self.samples: list[dict[Path, Layer]] = []
        numbers: dict[object, Kind] = {}
        for side in (0, 1):
            columns: dict[Path, list[object]] = defaultdict(list)
            samples: dict[Path, Layer] = {}
            for at, scope in enumerate(scopes):
                for path, layer in scope.sides[side].layers.items():
                    columns[path].append((at, layer.signature))
                    samples.setdefault(path, layer)
            found = ((path, tuple(held)) for path, held in columns.items())
            self.kinds.append({x: numbers.setdefault(held, len(numbers)) for x, held in found})
            self.samples.append(samples)

    @property
    def balanced(self) -> bool:
        """Whether both sides have the same columns, name by name as well as in sum."""
        return Counter(self.kinds[0].values()) == Counter(self.kinds[1].values())

    def layers(self, source: Path, target: Path) -> Iterator[tuple[Layer, Layer]]:
        """The pairs of layers that a pair of columns stands for."""
        for scope in self.scopes:
            ours, theirs = (side.layers for side in scope.sides)
            if source in ours:
                yield ours[source], theirs[target]

    def below(
        self, source: Path, ours: Sequence[Path], target: Path, theirs: Sequence[Path], why: str
    ) -> Iterator[Scope]:
        """The scopes that a pair of modules inside these scopes, with the layers in them, makes."""
        for scope in self.scopes:
            inner = scope.sides[0].below(source, ours)
            if inner.layers:
                yield Scope((inner, scope.sides[1].below(target, theirs)), why)


def grouped(scopes: Sequence[Scope]) -> list[Columns]:
    """Scopes of one template, together where their names agree, else each by itself."""
    whole = Columns(scopes)
    return [whole] if whole.balanced else [Columns([scope]) for scope in scopes]


def modules(kinds: Mapping[Path, Kind], before: Mapping[Path, Kind]) -> dict[Content, list[Path]]:
    """Every module that holds two layers or more, by its content.

    A module that is all of what another one holds is left out, as are those of which something is
    gone since ``before``. The whole is listed as ``()``.
    """
    gone = {path[:depth] for path in before if path not in kinds for depth in range(len(path))}
    counts: dict[Path, Counter[Kind]] = defaultdict(Counter)
    for path, kind in kinds.items():
        for depth in range(len(path)):
            counts[path[:depth]][kind] += 1
    totals = {node: count.total() for node, count in counts.items()}
    found: dict[Content, list[Path]] = defaultdict(list)
    for node, count in counts.items():
        inner = totals[node] < totals[node[:-1]] or node[:-1] in gone
        if node not in gone and (not node or (inner and totals[node] > 1)):
            found[tuple(sorted(count.items()))].append(node)
    return found


def inside(path: Path, node: Path) -> bool:
    """Whether ``path`` lies in ``node``."""
    return path[: len(node)] == node


def split(paths: Iterable[Path], nodes: Iterable[Path]) -> dict[Path | None, list[Path]]:
    """Paths by the one of ``nodes`` that they lie in; under None those that lie in none."""
    parts: dict[Path | None, list[Path]] = {None: [], **{node: [] for node in nodes}}
    for path in paths:
        above = (path[:depth] for depth in range(len(path)))
        parts[next((node for node in above if node in parts), None)].append(path)
    return parts
