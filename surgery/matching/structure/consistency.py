"""Held against each other, pairs that cannot all be right are found out.

Shapes can agree by accident where two networks differ: what was paired alone must also lie where
its neighbours lie.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from surgery.matching.structure.layers import Layer, Path
from surgery.matching.structure.pairing import LayerPair, Orders
from surgery.matching.structure.sequence import Sequences
from surgery.matching.structure.siblings import Family, RowPairs
from surgery.matching.structure.tree import block_of, inside
from surgery.matching.structure.words import compare, concepts, tokens


def contradicted(
    pairs: Sequence[LayerPair],
    sources: Sequence[Layer],
    targets: Sequence[Layer],
    orders: Orders,
    rows: RowPairs,
) -> dict[int, str]:
    """Pairs, by their place in ``pairs``, that others speak against, each with the reason.

    ``sources`` and ``targets`` are all layers of both sides, those without a pair included, and
    ``rows`` their numbered siblings.
    """
    return {
        **_torn(pairs),
        **_shifted(pairs, rows),
        **_out_of_place(pairs, orders),
        **_crossed(pairs),
        **_mixed(pairs, sources, targets),
    }


def _torn(pairs: Sequence[LayerPair]) -> dict[int, str]:
    """Pairs whose modules belong to two different pairs of modules, by all that is beside them."""
    held = [at for at, pair in enumerate(pairs) if not pair.source.stands_alone]
    sources = [pairs[at].source.path for at in held]
    targets = [pairs[at].target.path for at in held]
    ours, theirs = _Modules(sources, targets), _Modules(targets, sources)
    found = {}
    for at, pair in enumerate(held):
        near, far = ours.smallest(at), theirs.smallest(at)
        if near and far:
            there = ours.images(near, at)
            if _apart(there, far) and _apart(here := theirs.images(far, at), near):
                one, two = f"{_name(near)} is {_name(there)}", f"{_name(far)} is {_name(here)}"
                found[pair] = f"{one} and {two}, by what is beside it"
    return found


class _Modules:
    """The modules above the paths of one side, and where their layers are on the other side."""

    def __init__(self, paths: Sequence[Path], images: Sequence[Path]) -> None:
        self.paths = paths
        self.members = pairs_by_module(paths)
        self._images = images
        self._ends: dict[Path, tuple[list[int], list[int]]] = {}

    def smallest(self, at: int) -> Path:
        return _smallest(self.paths[at], self.members)

    def images(self, module: Path, at: int) -> Path:
        """The innermost module on the other side that holds all of this one's layers but ``at``.

        What the first and the last in sorted order share, all share.
        """
        if module not in self._ends:
            members, key = self.members[module], self._images.__getitem__
            self._ends[module] = (
                heapq.nsmallest(2, members, key=key),
                heapq.nlargest(2, members, key=key),
            )
        first, last = (next(x for x in ends if x != at) for ends in self._ends[module])
        shared = self._images[first][:-1]
        while self._images[last][:-1][: len(shared)] != shared:
            shared = shared[:-1]
        return shared


def pairs_by_module(paths: Sequence[Path]) -> dict[Path, list[int]]:
    found: dict[Path, list[int]] = defaultdict(list)
    for at, path in enumerate(paths):
        for depth in range(1, len(path)):
            found[path[:depth]].append(at)
    return found


def _smallest(path: Path, modules: Mapping[Path, Sequence[int]]) -> Path:
    """The innermost module with another pair in it; ``()`` where only the whole has one."""
    above = (path[:depth] for depth in range(len(path) - 1, 0, -1))
    return next((node for node in above if len(modules[node]) > 1), ())


def _name(path: Path) -> str:
    return ".".join(path)


def _apart(one: Path, other: Path) -> bool:
    return not inside(one, other) and not inside(other, one)


def _out_of_place(pairs: Sequence[LayerPair], orders: Orders) -> dict[int, str]:
    """Norms of layers that only one side counts among its embeddings: one network normalises
    what it embeds, another what it puts out, and both have one such norm.

    A side that names no embedding may still hold the norm beside the embedding, or run it before
    its numbered blocks.
    """
    doubtful = [at for at, pair in enumerate(pairs) if _in_one_embedding(pair)]
    if not doubtful:
        return {}
    early = _before_blocks(orders.source), _before_blocks(orders.target)
    ours = pairs_by_module([pair.source.path for pair in pairs])
    theirs = pairs_by_module([pair.target.path for pair in pairs])
    found = {}
    for at in doubtful:
        pair, here = pairs[at], _embeds(pairs[at].source.path)
        path, modules = (pair.target.path, theirs) if here else (pair.source.path, ours)
        if path in early[here]:
            continue
        beside = [pairs[x] for x in modules.get(_smallest(path, modules), ()) if x != at]
        if not beside or not all(_embeds((p.source if here else p.target).path) for p in beside):
            found[at] = "only one of them is an embedding's"
    return found


def _in_one_embedding(pair: LayerPair) -> bool:
    """Whether it is a norm, without statistics, that one side alone counts as an embedding's."""
    if _embeds(pair.source.path) == _embeds(pair.target.path):
        return False
    return not pair.source.is_matrix and not pair.source.of_role("mean")


def _before_blocks(sequences: Sequences) -> set[Path]:
    """The layers that stand before all that are in numbered blocks, as registered and as run."""
    found = []
    for places in (sequences.registered, sequences.run):
        first = min((at for path, at in places.items() if block_of(path)), default=-1)
        found.append({path for path, at in places.items() if at < first})
    return found[0] & found[1]


def _embeds(path: Path) -> bool:
    return any("embed" in concepts(segment) for segment in path)


def _crossed(pairs: Sequence[LayerPair]) -> dict[int, str]:
    """Matrices without a bias of which one is as wide as the other is high, and whose names stand
    the other way round on the two sides: one side keeps them as (in, out).
    """
    found: dict[int, str] = {}
    beside: dict[tuple[Path, Path], list[int]] = defaultdict(list)
    for at, pair in enumerate(pairs):
        if _bare_matrix(pair):
            beside[pair.source.path[:-1], pair.target.path[:-1]].append(at)
    for members in beside.values():
        for one, other in combinations(members[:_FEW], 2):
            if _stand_crosswise(pairs[one], pairs[other]):
                found |= dict.fromkeys((one, other), "one side may keep it as (in, out)")
    return found


#: A module with more bare matrices than this is no feed-forward part.
_FEW = 16


def _bare_matrix(pair: LayerPair) -> bool:
    shapes = [shape for _, shape in pair.source.signature]
    return len(shapes) == 1 and len(shapes[0]) == 2 and bool(pair.source.path and pair.target.path)


def _stand_crosswise(one: LayerPair, other: LayerPair) -> bool:
    (_, shape), (_, turned) = one.source.signature[0], other.source.signature[0]
    if shape != turned[::-1] or shape == turned:
        return False
    ours = one.source.path[-1], other.source.path[-1]
    theirs = one.target.path[-1], other.target.path[-1]
    orders = compare(*ours), compare(*theirs)
    if None not in orders:
        return orders[0] != orders[1]
    mine, yours = ([{*tokens(segment)} for segment in side] for side in (ours, theirs))
    straight = len(mine[0] & yours[0]) + len(mine[1] & yours[1])
    return straight < len(mine[0] & yours[1]) + len(mine[1] & yours[0])


def _mixed(
    pairs: Sequence[LayerPair], sources: Sequence[Layer], targets: Sequence[Layer]
) -> dict[int, str]:
    """Stems over grey pictures that look like depthwise kernels: where one side has such a kernel
    left over, and the other a stem of that size over more channels, outside of numbered blocks
    any of them may be meant.
    """
    paired = {id(layer) for pair in pairs for layer in (pair.source, pair.target)}
    left = [[x for x in side if id(x) not in paired] for side in (sources, targets)]
    kinds = [{x.signature for x in side if x.kernels} for side in left]
    stems = [{x.kernels for x in side if x.kernels} for side in left]
    if not all(stems):
        return {}
    found = {}
    for at, pair in enumerate(pairs):
        for side, layer in enumerate((pair.source, pair.target)):
            more = stems[1 - side] if layer.signature in kinds[side] else ()
            inner = block_of(pair.source.path) and block_of(pair.target.path)
            if layer.kernels in more and not inner:
                found[at] = "a stem of this size over other channels is left as well"
    return found


def _shifted(pairs: Sequence[LayerPair], rows: RowPairs) -> dict[int, str]:
    """Pairs of numbered siblings that stand in different places of rows of different length.

    The fifth block of one stage is not the first of another, whatever its shapes are.
    """
    matched: tuple[dict[Family, set[str]], ...] = (defaultdict(set), defaultdict(set))
    for pair in pairs:
        places = rows.ours.places[pair.source.path], rows.theirs.places[pair.target.path]
        for side, found_there in zip(matched, places, strict=True):
            for family, member in found_there:
                side[family].add(member)
    found: dict[int, str] = {}
    for (family, other), members in rows.members.items():
        sides = matched[0][family], matched[1][other]
        ranks = rows.ours.families[family], rows.theirs.families[other]
        lengths = [len(ranks[0]), len(ranks[1])]
        if _one_row(members, *sides) and [len(side) for side in sides] != lengths:
            found |= _misplaced(*ranks, members)
    return found


def _one_row(members: Iterable[tuple[str, str]], ours: set[str], theirs: set[str]) -> bool:
    """Whether two families are one: what is matched of either is matched one to one."""
    members = list(members)
    sources, targets = {source for source, _ in members}, {target for _, target in members}
    return (
        len(members) > 1
        and len(members) == len(sources) == len(targets)
        and sources == ours
        and targets == theirs
    )


def _misplaced(
    ours: Mapping[str, int],
    theirs: Mapping[str, int],
    members: Mapping[tuple[str, str], Sequence[int]],
) -> dict[int, str]:
    return {
        at: f"it is number {ours[member] + 1} of {len(ours)} and "
        f"{theirs[partner] + 1} of {len(theirs)}"
        for (member, partner), found in members.items()
        if ours[member] != theirs[partner]
        for at in found
    }
