"""Two sets of layers -> pairs, by the modules that hold them.

From the outside in: modules that hold the same shapes are paired where this can mean one thing
only, and what is in them is solved by itself. What remains is paired where its shape is alone
on either side, or where names tell.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgery.matching.structure.columns import Group, Scope, Side, grouped
from surgery.matching.structure.evidence import Known, settle
from surgery.matching.structure.hints import Hints
from surgery.matching.structure.layers import Layer, Path
from surgery.matching.structure.ordering import natural
from surgery.matching.structure.sequence import Anchors, Sequences
from surgery.matching.structure.tree import Content, inside, nodes_by_content
from surgery.matching.structure.words import numbering


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer of the source, the one of the target that it feeds, and why."""

    source: Layer
    target: Layer
    why: str


@dataclass(frozen=True, slots=True)
class Open:
    """Layers of one kind that cannot be paired, and why."""

    sources: tuple[Layer, ...]
    targets: tuple[Layer, ...]
    reason: str = "nothing tells them apart but their order"


@dataclass
class Pairing:
    """Everything that was decided, and what stayed open."""

    pairs: list[LayerPair] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Orders:
    """Places of layers of either side, by path."""

    source: Sequences = field(default_factory=Sequences)
    target: Sequences = field(default_factory=Sequences)


#: A module with more matrices than this is no chance grouping of neighbours.
_RICH = 3


def pair_layers(
    sources: Iterable[Layer], targets: Iterable[Layer], hints: Hints, orders: Orders
) -> Pairing:
    """Pair the layers of two networks; each layer is in one pair at most."""
    whole = Scope(_side(sources), _side(targets))
    pairing = Pairing()
    waiting: dict[tuple[str, str], list[Scope]] = {whole.template: [whole]}
    queue = [(whole.depth, whole.template)]
    while queue:
        _, template = heapq.heappop(queue)
        for scope in _solve_alike(waiting.pop(template), pairing, hints, orders):
            if scope.template not in waiting:
                heapq.heappush(queue, (scope.depth, scope.template))
            waiting.setdefault(scope.template, []).append(scope)
    return pairing


def _side(layers: Iterable[Layer]) -> Side:
    ordered = sorted(layers, key=lambda layer: natural(layer.path))
    return Side((), {layer.path: layer for layer in ordered})


def _solve_alike(
    scopes: Sequence[Scope], pairing: Pairing, hints: Hints, orders: Orders
) -> list[Scope]:
    """Solve scopes of one template; what some of them leave open the others may tell."""
    groups = grouped(scopes)
    # A scope by itself may be a wrapper around what is repeated elsewhere: look there.
    wrapped = [group.scopes[0].unwrapped for group in groups if group.wraps]
    solutions = [Solution(group, hints, orders) for group in groups if not group.wraps]
    for solution in solutions:
        solution.solve({})
    learned = _learned(solutions)
    for solution in solutions:
        solution.solve(learned)
        solution.add_to(pairing)
    return [*wrapped, *(scope for solution in solutions for scope in solution.inner)]


def _learned(solutions: Sequence[Solution]) -> dict[Path, Path]:
    """Pairs of names that hold wherever they occur."""
    found: dict[Path, set[Path]] = defaultdict(set)
    back: dict[Path, set[Path]] = defaultdict(set)
    for solution in solutions:
        for source, (target, _) in (*solution.pairs.items(), *solution.nodes.items()):
            found[source].add(target)
            back[target].add(source)
    return {
        source: target
        for source, targets in found.items()
        for target in targets
        if len(targets) == len(back[target]) == 1
    }


class Solution:
    """One group of scopes while it is solved: columns leave ``sources`` and ``targets`` as they
    are decided.
    """

    def __init__(self, group: Group, hints: Hints, orders: Orders) -> None:
        self.group = group
        self.hints = hints
        self.sources = dict(group.sources)
        self.targets = dict(group.targets)
        self.pairs: dict[Path, tuple[Path, str]] = {}
        self.nodes: dict[Path, tuple[Path, str]] = {}
        self.inner: list[Scope] = []
        self.orders = orders

    def solve(self, learned: Mapping[Path, Path]) -> None:
        """Decide what can be decided, until nothing changes."""
        known = Known(
            self.hints,
            learned=learned,
            order=self._places(self.orders.target.registered),
            run=self._places(self.orders.target.run),
            whole=self._whole() if self.hints else ({}, {}),
        )
        while self._pair_nodes(known) or self._pair_alone() or self._settle(known):
            pass

    def _whole(self) -> tuple[dict[Path, list[Path]], dict[Path, list[Path]]]:
        """The paths from the top of the network of all layers and modules in this group."""
        sides: tuple[dict[Path, list[Path]], dict[Path, list[Path]]] = ({}, {})
        for scope in self.group.scopes:
            for found, side in zip(sides, (scope.source, scope.target), strict=True):
                for path, layer in side.layers.items():
                    above = layer.path[: len(layer.path) - len(path)]
                    for depth in range(1, len(path) + 1):
                        found.setdefault(path[:depth], []).append((*above, *path[:depth]))
        return sides

    def _places(self, order: Mapping[Path, int]) -> dict[Path, int]:
        """The places of target columns, as the first scope that has them tells."""
        places: dict[Path, int] = {}
        for scope in self.group.scopes if order else ():
            for path, layer in scope.target.layers.items():
                if layer.path in order:
                    places.setdefault(path, order[layer.path])
        return places

    def _anchors(self) -> Anchors | None:
        """What is decided, with the places of the first scope, in which all have one order."""
        if not (self.orders.source and self.orders.target):
            return None
        scope = self.group.scopes[0]
        ours = _sequences(self.orders.source, scope.source)
        theirs = _sequences(self.orders.target, scope.target)
        inner = split(scope.source.layers, self.nodes)
        there = split(scope.target.layers, [target for target, _ in self.nodes.values()])
        modules = [(inner[node], there[target]) for node, (target, _) in self.nodes.items()]
        layers = [([source], [target]) for source, (target, _) in self.pairs.items()]
        return Anchors(ours, theirs, (*modules, *layers))

    def add_to(self, pairing: Pairing) -> None:
        """Hand over what was decided here, and what stays open."""
        for source, (target, why) in self.pairs.items():
            pairing.pairs += [LayerPair(*pair, why) for pair in self.group.layers(source, target)]
        for ours, theirs in self._kinds():
            if ours and theirs:
                pairing.open += self._open(ours, theirs)

    def _open(self, ours: Sequence[Path], theirs: Sequence[Path]) -> Iterable[Open]:
        for scope in self.group.scopes:
            sources = tuple(scope.source.layers[p] for p in ours if p in scope.source.layers)
            targets = tuple(scope.target.layers[p] for p in theirs if p in scope.target.layers)
            if sources and targets:
                yield Open(sources, targets)

    def _kinds(self) -> list[tuple[list[Path], list[Path]]]:
        """What is left, kind by kind."""
        kinds: dict[int, tuple[list[Path], list[Path]]] = {}
        for path, kind in self.sources.items():
            kinds.setdefault(kind, ([], []))[0].append(path)
        for path, kind in self.targets.items():
            kinds.setdefault(kind, ([], []))[1].append(path)
        return list(kinds.values())

    def _pair_alone(self) -> bool:
        found = [(o[0], t[0]) for o, t in self._kinds() if len(o) == len(t) == 1]
        for source, target in found:
            self._pair(source, target, self._alone(source))
        return bool(found)

    def _alone(self, source: Path) -> str:
        scope = next(s for s in self.group.scopes if source in s.source.layers)
        shapes = scope.source.layers[source].signature
        text = ", ".join(f"{role} {shape}" for role, shape in shapes)
        place = f" in {scope.source.template}" if scope.source.prefix else ""
        return f"only pair of {text}{place}"

    def _settle(self, known: Known) -> bool:
        known = replace(
            known,
            pairs={source: target for source, (target, _) in self.pairs.items()},
            inside=_by_module(self.pairs),
            matrices=frozenset(path for path in self.pairs if self._layer(path).is_matrix),
            anchors=self._anchors(),
        )
        changed = False
        for ours, theirs in self._kinds():
            if ours and theirs and (found := settle(ours, theirs, known)):
                changed = True
                for source, (target, why) in found.items():
                    self._pair(source, target, why)
        return changed

    def _pair(self, source: Path, target: Path, why: str) -> None:
        self.pairs[source] = (target, why)
        del self.sources[source], self.targets[target]

    def _pair_nodes(self, known: Known) -> bool:
        """Pair modules of equal content, the largest first."""
        ours, theirs = nodes_by_content(self.sources), nodes_by_content(self.targets)
        both = [content for content in ours if content in theirs]
        both.sort(key=lambda content: (-_size(content), content))
        taken = _Taken(Counter(self.sources.values()), Counter(self.targets.values()))
        covered = self._covered(ours, theirs)
        found: list[tuple[Path, Path, str]] = []
        for content in both:
            sources, targets = taken.free(ours[content], 0), taken.free(theirs[content], 1)
            if not self._trusted(content, sources, targets, covered, taken):
                continue
            pairs = self._node_pairs(sources, targets, known)
            for source, (target, why) in pairs.items():
                taken.take(source, target, content)
                found.append((source, target, why))
        self._descend(found)
        return bool(found)

    def _covered(
        self, ours: Mapping[Content, Sequence[Path]], theirs: Mapping[Content, Sequence[Path]]
    ) -> dict[int, float]:
        """By kind, how large a module must be to hold each of its layers, of either side, in a
        module that the other side has as well; infinite where one lies in none.
        """
        alike = [content for content in ours if len(ours[content]) == len(theirs.get(content, ()))]
        covered: dict[int, float] = {}
        for columns, nodes in ((self.sources, ours), (self.targets, theirs)):
            sizes = {node: _size(content) for content in alike for node in nodes[content] if node}
            for path, kind in columns.items():
                above = (path[:depth] for depth in range(len(path) - 1, 0, -1))
                size = next((sizes[node] for node in above if node in sizes), math.inf)
                covered[kind] = max(covered.get(kind, 0), size)
        return covered

    def _trusted(
        self,
        content: Content,
        sources: list[Path],
        targets: list[Path],
        covered: Mapping[int, float],
        taken: _Taken,
    ) -> bool:
        """Whether modules of this content hold the same layers on both sides.

        Some kind must lie in them alone. Other kinds could be grouped otherwise: a norm with the
        convolution before it or behind it. They are the same if both sides have all of them in
        modules alike, in numbered blocks, and where their size tells on which side they stand.
        """
        if not sources or not targets or not taken.anchored(content, len(sources)):
            return False
        size, count = _size(content), len(sources)
        if all(covered[kind] <= size or taken.alone(kind, n * count) for kind, n in content):
            return True
        paths = [path for path in self.sources if inside(path, sources[0])]
        layers = [self._layer(path) for path in paths]
        matrices = [layer for layer in layers if layer.is_matrix]
        numbered = all(node and numbering(node[-1])[1] for node in (*sources, *targets))
        if len(matrices) > (1 if numbered else _RICH):
            return True
        if not _sizes_tell(layers, matrices) or self._named_elsewhere(sources, targets):
            return False
        return self._unbroken(self.group.sources, self.sources, sources[0]) and self._unbroken(
            self.group.targets, self.targets, targets[0]
        )

    def _unbroken(self, columns: Iterable[Path], left: Mapping[Path, int], node: Path) -> bool:
        """Whether no layer of a module lies in a numbered one inside it, and none was paired."""
        inner = [path for path in columns if inside(path, node)]
        deep = any(len(path) > len(node) + 1 and numbering(path[len(node)])[1] for path in inner)
        return not deep and all(path in left for path in inner)

    def _named_elsewhere(self, sources: Sequence[Path], targets: Sequence[Path]) -> bool:
        """Whether a layer in one side's modules has its name, and its kind, outside the other's."""
        ours, theirs = split(self.sources, sources), split(self.targets, targets)
        within = {path for node in sources for path in ours[node]}
        beyond = {path for node in targets for path in theirs[node]}
        return any(
            self.sources.get(path) == self.targets.get(path)
            for path in (within & {*theirs[None]}) | (beyond & {*ours[None]})
        )

    def _layer(self, source: Path) -> Layer:
        return next(s.source.layers[source] for s in self.group.scopes if source in s.source.layers)

    def _node_pairs(
        self, sources: list[Path], targets: list[Path], known: Known
    ) -> Mapping[Path, tuple[Path, str]]:
        if len(sources) != len(targets) or (() in sources and () in targets):
            return {}
        if len(sources) == 1:
            return {sources[0]: (targets[0], "only pair of modules that hold these shapes")}
        return settle(sources, targets, known)

    def _descend(self, found: Sequence[tuple[Path, Path, str]]) -> None:
        """Turn pairs of modules into scopes of their own; their layers leave this one."""
        if not found:
            return
        ours = split(self.sources, [source for source, _, _ in found])
        theirs = split(self.targets, [target for _, target, _ in found])
        for source, target, why in found:
            self.nodes[source] = (target, why)
            self.inner += self.group.below(
                source, ours.pop(source), target, theirs.pop(target), why
            )
        self.sources = {path: self.sources[path] for path in ours[None]}
        self.targets = {path: self.targets[path] for path in theirs[None]}


def _sequences(orders: Sequences, side: Side) -> Sequences:
    """The places of a module's layers, by their paths in it."""
    return Sequences(
        *(
            {path: order[x.path] for path, x in side.layers.items() if x.path in order}
            for order in (orders.registered, orders.run)
        )
    )


def split(paths: Iterable[Path], nodes: Iterable[Path]) -> dict[Path | None, list[Path]]:
    """Paths by the one of ``nodes`` that they lie in; under None those that lie in none."""
    parts: dict[Path | None, list[Path]] = {None: [], **{node: [] for node in nodes}}
    for path in paths:
        above = (path[:depth] for depth in range(len(path)))
        parts[next((node for node in above if node in parts), None)].append(path)
    return parts


def _sizes_tell(layers: Sequence[Layer], matrices: Sequence[Layer]) -> bool:
    """Whether a norm beside one matrix is as long as its inputs, or as its outputs, not both."""
    if len(matrices) != 1 or len(layers) != 2 or matrices[0].channels is None:
        return False
    (size,) = {
        shape[0] for x in layers if not x.is_matrix for _, shape in x.signature if shape
    } or {0}
    return matrices[0].channels.count(size) == 1


def _by_module(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Paths by each module above them."""
    found: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        for depth in range(len(path)):
            found[path[:depth]].append(path)
    return found


def _size(content: Content) -> int:
    return sum(count for _, count in content)


class _Taken:
    """Which modules are spoken for while one round of pairing runs, and what is left."""

    def __init__(self, sources: Counter[int], targets: Counter[int]) -> None:
        self.left = (sources, targets)
        self.inside: tuple[set[Path], set[Path]] = (set(), set())
        self.above: tuple[set[Path], set[Path]] = (set(), set())

    def free(self, nodes: Sequence[Path], side: int) -> list[Path]:
        return [
            node
            for node in nodes
            if node not in self.above[side]
            and not any(node[:depth] in self.inside[side] for depth in range(len(node) + 1))
        ]

    def anchored(self, content: Content, count: int) -> bool:
        """Whether some kind lies in these modules alone, on both sides: then they are the same
        parts of both networks, whatever else looks like the rest of them.
        """
        ours, theirs = self.left
        return any(ours[kind] == theirs[kind] == count * times for kind, times in content)

    def alone(self, kind: int, times: int) -> bool:
        """Whether there are just so many layers of a kind left, on both sides."""
        return self.left[0][kind] == self.left[1][kind] == times

    def take(self, source: Path, target: Path, content: Content) -> None:
        for side, node in enumerate((source, target)):
            self.inside[side].add(node)
            self.above[side].update(node[:depth] for depth in range(len(node)))
            self.left[side].subtract(dict(content))
