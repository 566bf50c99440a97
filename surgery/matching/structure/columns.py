"""Scopes: a module of the source and one of the target that hold the same network.

Repeated blocks are looked at together: a column is one path inside the block, over all pairs of
blocks that have the same names around them. What one block leaves open (a projection and a
shortcut of one shape) another one tells.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from surgery.matching.structure.layers import Layer, Path
from surgery.matching.structure.tree import Numbers


@dataclass(frozen=True)
class Side:
    """One module: its path, and the layers in it by their path from there."""

    prefix: Path
    layers: Mapping[Path, Layer]

    @cached_property
    def template(self) -> str:
        """The module's path with every number left open."""
        return re.sub(r"\d+", "#", ".".join(self.prefix))

    def below(self, node: Path, paths: Iterable[Path]) -> Side:
        """The module at ``node``, with those of ``paths`` that are here."""
        found = {path[len(node) :]: self.layers[path] for path in paths if path in self.layers}
        return Side((*self.prefix, *node), found)

    @cached_property
    def unwrapped(self) -> Side:
        """The innermost module that holds the same layers."""
        shared = next(iter(self.layers), ("",))[:-1]
        for path in self.layers:
            while path[: len(shared)] != shared:
                shared = shared[:-1]
        return self.below(shared, self.layers) if shared else self


@dataclass(frozen=True)
class Scope:
    """A pair of modules, and why they are one."""

    source: Side
    target: Side
    why: str = ""

    @property
    def template(self) -> tuple[str, str]:
        return self.source.template, self.target.template

    @property
    def depth(self) -> int:
        return len(self.source.prefix) + len(self.target.prefix)

    @property
    def unwrapped(self) -> Scope:
        """The same pair without modules that hold one module and nothing else."""
        return Scope(self.source.unwrapped, self.target.unwrapped, self.why)


@dataclass(frozen=True)
class Group:
    """Scopes that are solved as one. Columns are paths inside the scope, and ``kinds`` say what
    a column holds in each scope: equal kinds are equal shapes throughout.
    """

    scopes: tuple[Scope, ...]
    kinds: Numbers = field(default_factory=Numbers, compare=False)

    @cached_property
    def sources(self) -> dict[Path, int]:
        return self._columns(scope.source for scope in self.scopes)

    @cached_property
    def targets(self) -> dict[Path, int]:
        return self._columns(scope.target for scope in self.scopes)

    def _columns(self, sides: Iterable[Side]) -> dict[Path, int]:
        columns: dict[Path, list[object]] = defaultdict(list)
        for at, side in enumerate(sides):
            for path, layer in side.layers.items():
                columns[path].append((at, layer.signature))
        return {path: self.kinds.of(tuple(column)) for path, column in columns.items()}

    @cached_property
    def balanced(self) -> bool:
        """Whether both sides have the same columns, name by name as well as in sum."""
        return sorted(self.sources.values()) == sorted(self.targets.values())

    @property
    def wraps(self) -> bool:
        """Whether this is one scope whose modules only hold another one."""
        return len(self.scopes) == 1 and self.scopes[0].unwrapped.depth > self.scopes[0].depth

    def layers(self, source: Path, target: Path) -> Iterator[tuple[Layer, Layer]]:
        """The pairs of layers that a pair of columns stands for."""
        for scope in self.scopes:
            if source in scope.source.layers:
                yield scope.source.layers[source], scope.target.layers[target]

    def below(
        self, source: Path, ours: Sequence[Path], target: Path, theirs: Sequence[Path], why: str
    ) -> Iterator[Scope]:
        """The scopes that a pair of modules inside these scopes, with the layers in them, makes."""
        for scope in self.scopes:
            inner = scope.source.below(source, ours)
            if inner.layers:
                yield Scope(inner, scope.target.below(target, theirs), why)


def grouped(scopes: Sequence[Scope]) -> list[Group]:
    """Scopes of one template, together as far as they go.

    All at once where their names agree; else those with the very same names inside.
    """
    whole = Group(tuple(scopes))
    if len(scopes) == 1 or whole.balanced:
        return [whole]
    alike: dict[tuple[frozenset[Path], frozenset[Path]], list[Scope]] = defaultdict(list)
    for scope in scopes:
        names = frozenset(scope.source.layers), frozenset(scope.target.layers)
        alike[names].append(scope)
    groups = []
    for family in alike.values():
        group = Group(tuple(family))
        if group.balanced:
            groups.append(group)
        else:
            groups += [Group((scope,)) for scope in family]
    return groups
