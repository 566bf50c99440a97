"""Two sets of layers -> pairs, by the modules that hold them.

From the outside in: modules that hold the same shapes are paired where this can mean one thing
only, and what is in them is solved by itself.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgery.matching.structure.evidence import (
    BY_HINT,
    Convolved,
    Known,
    Members,
    Rule,
    paired_by,
)
from surgery.matching.structure.hints import Hints
from surgery.matching.structure.layers import Layer, Path
from surgery.matching.structure.numbers import Families, anchors_of, natural
from surgery.matching.structure.scopes import (
    Columns,
    Content,
    Kind,
    Scope,
    Side,
    grouped,
    inside,
    modules,
    split,
)


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer of the source, the one of the target that it feeds, and why. ``columns`` say what
    repeated blocks have in common.
    """

    source: Layer
    target: Layer
    why: str
    columns: Hashable


@dataclass(frozen=True, slots=True)
class Open:
    """Layers of one kind that cannot be paired, and why; ``columns`` as in a pair."""

    sources: tuple[Layer, ...]
    targets: tuple[Layer, ...]
    columns: Hashable
    reason: str


@dataclass
class Pairing:
    """Everything that was decided, and what stayed open."""

    pairs: list[LayerPair] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What may decide: rules, what a person says, the numbers of all layers of either side, those
    included that the other one lacks, the order in which the target registers its layers, and those
    in which the modules of both sides run.

    ``size`` is the number of layers of the smaller network.
    """

    rules: Sequence[Rule]
    hints: Hints
    size: int
    families: tuple[Families, Families]
    registered: Mapping[Path, int]
    runs: Sequence[Mapping[Path, int]]


def pair_layers(sources: Iterable[Layer], targets: Iterable[Layer], evidence: Evidence) -> Pairing:
    """Pair the layers of two networks; each layer is in one pair at most."""
    ours, theirs = (
        {x.path: x for x in sorted(side, key=lambda layer: natural(layer.path))}
        for side in (sources, targets)
    )
    pairing = Pairing()
    waiting: dict[tuple[str, ...], list[Scope]] = {}
    queue: list[tuple[int, tuple[str, ...]]] = []

    def wait(scope: Scope) -> None:
        if scope.template not in waiting:
            heapq.heappush(queue, (scope.depth, scope.template))
        waiting.setdefault(scope.template, []).append(scope)

    wait(Scope((Side((), ours), Side((), theirs))))
    while queue:
        _, template = heapq.heappop(queue)
        for columns in grouped(waiting.pop(template)):
            # A scope by itself may be a wrapper around what is repeated elsewhere: look there.
            unwrapped = columns.scopes[0].unwrapped
            if len(columns.scopes) == 1 and unwrapped.depth > columns.scopes[0].depth:
                wait(unwrapped)
                continue
            solution = Solution(columns, evidence)
            while solution.pair_modules() or solution.pair_layers():
                pass
            solution.add_to(pairing)
            for scope in solution.inner:
                wait(scope)
    return pairing


_ALIKE = "nothing but their order distinguishes them"
_TURNABLE = "they have one shape, but one side may keep them as (in, out)"


class Solution:
    """Scopes that are one while they are solved: columns leave ``left`` as they are decided."""

    def __init__(self, columns: Columns, evidence: Evidence) -> None:
        self.columns, self.evidence = columns, evidence
        self.left = [dict(kinds) for kinds in columns.kinds]
        self.first = [Counter(kinds.values()) for kinds in columns.kinds]
        self.pairs: dict[Path, tuple[Path, str]] = {}
        self.modules: dict[Path, tuple[Path, str]] = {}
        self.inner: list[Scope] = []
        self.layers = columns.samples[0]
        self.bare = Counter(layer.bare_shape for layer in self.layers.values())
        sides = max(columns.scopes, key=lambda scope: len(scope.sides[0].layers)).sides
        self.base = Known(
            evidence.hints,
            # What holds most of a network is no part of it.
            bool(columns.scopes[0].why) and 2 * len(sides[0].layers) <= evidence.size,
            columns.balanced,
            [f.below(side.prefix) for f, side in zip(evidence.families, sides, strict=True)],
            Counter(layer.weight_shape for layer in self.layers.values()),
            _below(evidence.registered, sides[1], columns.samples[1]),
            [_below(evidence.runs[at], sides[at], columns.samples[at]) for at in (0, 1)],
            _whole_paths(columns.scopes) if evidence.hints else ({}, {}),
        )

    def _known(self) -> Known:
        """What is known by now."""
        layers = {source: target for source, (target, _) in self.pairs.items()}
        pairs = {**layers, **{source: target for source, (target, _) in self.modules.items()}}
        held = zip(self.columns.samples, (layers, layers.values()), self.left, strict=True)
        return replace(
            self.base,
            pairs=pairs,
            anchors=anchors_of(pairs.items(), self.base.families),
            convolved=[_convolved({x: s[x] for x in (*paired, *left)}) for s, paired, left in held],
        )

    def add_to(self, pairing: Pairing) -> None:
        """Hand over what was decided here, and what stays open."""
        template = self.columns.scopes[0].template
        for source, (target, why) in self.pairs.items():
            for pair in self.columns.layers(source, target):
                pairing.pairs.append(LayerPair(*pair, why, (template, source, target)))
        for columns in self._kinds():
            for scope in self.columns.scopes:
                ours, theirs = (
                    tuple(side.layers[path] for path in paths if path in side.layers)
                    for side, paths in zip(scope.sides, columns, strict=True)
                )
                if ours and theirs:
                    reason = _TURNABLE if self._members(*columns).turnable else _ALIKE
                    alike = template, *map(tuple, columns)
                    pairing.open.append(Open(ours, theirs, alike, reason))

    def _kinds(self) -> list[tuple[list[Path], list[Path]]]:
        """What is left on both sides, kind by kind."""
        kinds: dict[Kind, tuple[list[Path], list[Path]]] = {}
        for side, columns in enumerate(self.left):
            for path, kind in columns.items():
                kinds.setdefault(kind, ([], []))[side].append(path)
        return [(ours, theirs) for ours, theirs in kinds.values() if ours and theirs]

    def pair_layers(self) -> bool:
        """Pair what stands alone, or where there is none, what evidence distinguishes."""
        kinds = self._kinds()
        alone = [(ours, theirs) for ours, theirs in kinds if len(ours) == len(theirs) == 1]
        return self._pair(alone) or self._pair(kinds)

    def _pair(self, kinds: Iterable[tuple[list[Path], list[Path]]]) -> bool:
        known, before = self._known(), len(self.pairs)
        for ours, theirs in kinds:
            members = self._members(ours, theirs)
            for source, (target, why) in paired_by(members, known, self.evidence.rules).items():
                self.pairs[source] = (target, why)
                del self.left[0][source], self.left[1][target]
        return len(self.pairs) > before

    def _members(self, ours: Sequence[Path], theirs: Sequence[Path]) -> Members:
        layer, kind = self.layers[ours[0]], self.left[0][ours[0]]
        bare = layer.bare_shape
        hinted = (path for path, (_, why) in self.pairs.items() if why.startswith(BY_HINT))
        return Members(
            (ours, theirs),
            whole=self.first[0][kind] == self.first[1][kind] == 1,
            shape=layer.weight_shape if layer.is_matrix else (),
            statistics=bool(layer.of_role("mean")),
            turnable=len({*bare}) == 2 and self.bare[bare] == self.bare[bare[::-1]],
            hinted=any(self.columns.kinds[0][path] == kind for path in hinted),
        )

    def pair_modules(self) -> bool:
        """Pair modules that a person names, then those of equal content, the largest first."""
        known = self._known()
        if hinted := self._hinted(known):
            self._descend([hinted])
            return True
        nodes = [modules(*kinds) for kinds in zip(self.left, self.columns.kinds, strict=True)]
        both = sorted(nodes[0].keys() & nodes[1].keys(), key=lambda x: (-_size(x), x))
        taken = _Taken(*(Counter(kinds.values()) for kinds in self.left))
        found: list[tuple[Path, Path, str]] = []
        for content in both:
            ours, theirs = (taken.free(nodes[side][content], side) for side in (0, 1))
            if [()] == ours == theirs or len(ours) != len(theirs):
                continue
            if self._trusted(content, ours, taken):
                members = Members((ours, theirs), modules=True)
                for source, (target, why) in paired_by(members, known, self.evidence.rules).items():
                    taken.take(source, target, content)
                    found.append((source, target, why))
        self._descend(found)
        return bool(found)

    def _hinted(self, known: Known) -> tuple[Path, Path, str] | None:
        """The one module on either side that a hint names, if it names one."""
        above = [{x[:at] for x in side for at in range(1, len(x))} for side in self.left]
        for hint in known.hints:
            ends = [known.meant(hint, above[side], side, ends=True) for side in (0, 1)]
            if len(ends[0]) == len(ends[1]) == 1:
                known.hints.use(hint)
                return ends[0][0], ends[1][0], f"{BY_HINT} {hint}"
        return None

    def _trusted(self, content: Content, nodes: list[Path], taken: _Taken) -> bool:
        """Whether modules of this content hold the same layers on both sides.

        Some kind must lie in them alone. Other kinds could be grouped otherwise: a norm with the
        convolution before it or behind it. They are the same if they lie in them alone as well,
        if there are several matrices, or where their size tells on which side of one they stand.
        """
        alone = [taken.alone(kind, number * len(nodes)) for kind, number in content]
        if not nodes or not any(alone) or all(alone):
            return bool(nodes) and any(alone)
        layers = [self.layers[path] for path in self.left[0] if inside(path, nodes[0])]
        matrices = [layer for layer in layers if layer.is_matrix]
        return len(matrices) > 1 or _sizes_tell(layers, matrices)

    def _descend(self, found: Sequence[tuple[Path, Path, str]]) -> None:
        """Turn pairs of modules into scopes of their own; their layers leave this one."""
        if not found:
            return
        ours = split(self.left[0], [source for source, _, _ in found])
        theirs = split(self.left[1], [target for _, target, _ in found])
        for source, target, why in found:
            self.modules[source] = (target, why)
            self.inner += self.columns.below(source, ours[source], target, theirs[target], why)
        self.left = [
            {path: kinds[path] for path in rest}
            for kinds, rest in zip(self.left, (ours[None], theirs[None]), strict=True)
        ]


def _below(places: Mapping[Path, int], side: Side, paths: Iterable[Path]) -> dict[Path, int]:
    """Places of layers by their paths from a module; those of modules are their first layers'."""
    found: dict[Path, int] = {}
    known = [(places[x], path) for path in paths if (x := (*side.prefix, *path)) in places]
    for place, path in sorted(known):
        for depth in range(1, len(path) + 1):
            found.setdefault(path[:depth], place)
    return found


def _whole_paths(scopes: Iterable[Scope]) -> list[dict[Path, list[Path]]]:
    """The paths from the top of the network of all layers and modules in some scopes."""
    found: list[dict[Path, list[Path]]] = [defaultdict(list), defaultdict(list)]
    for scope in scopes:
        for paths, side in zip(found, scope.sides, strict=True):
            for inner in {path[:at] for path in side.layers for at in range(1, len(path) + 1)}:
                paths[inner].append((*side.prefix, *inner))
    return found


def _convolved(layers: Mapping[Path, Layer]) -> Convolved:
    """By module and width the matrices without a bias that are right in it, and the norms with
    statistics, of widths of which there are as many of both in every module, so that none is
    grouped with what comes next.
    """
    found: dict[tuple[Path, int], tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for path, layer in layers.items():
        width, is_norm = sum(layer.weight_shape[:1]), bool(layer.of_role("mean"))
        if is_norm or (layer.is_matrix and not layer.of_role("bias")):
            found[path[:-1], width][is_norm].append(path)
    uneven = {width for (_, width), (one, other) in found.items() if len(one) != len(other)}
    return {
        norm: held for (_, width), held in found.items() if width not in uneven for norm in held[1]
    }


def _sizes_tell(layers: Sequence[Layer], matrices: Sequence[Layer]) -> bool:
    """Whether a norm beside one matrix is as long as its inputs, or as its outputs, not both."""
    if len(matrices) != 1 or len(layers) != 2:
        return False
    norms = (shape for x in layers if not x.is_matrix for _, shape in x.signature if shape)
    (size,) = {shape[0] for shape in norms} or {0}
    shape = matrices[0].weight_shape
    outputs, inputs = (*shape, 0, 0)[:2]
    # A convolution that is not over a picture may run in groups, and have more inputs than these.
    all_inputs = len(shape) == 2 or (len(shape) == 4 and inputs <= 4)
    return outputs != inputs and (size == inputs or (size == outputs and all_inputs))


def _size(content: Content) -> int:
    return sum(count for _, count in content)


class _Taken:
    """Which modules are spoken for while one round of pairing runs, and what is left."""

    def __init__(self, sources: Counter[Kind], targets: Counter[Kind]) -> None:
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

    def alone(self, kind: Kind, times: int) -> bool:
        """Whether there are just so many layers of a kind left, on both sides."""
        return self.left[0][kind] == self.left[1][kind] == times

    def take(self, source: Path, target: Path, content: Content) -> None:
        for side, node in enumerate((source, target)):
            self.inside[side].add(node)
            self.above[side].update(node[:depth] for depth in range(len(node)))
            self.left[side].subtract(dict(content))
