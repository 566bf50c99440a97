"""Numbered siblings (``layer1``, ``layer2``), and which pairs of layers lead from whom to whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.matching.structure.layers import Layer, Path
from surgery.matching.structure.ordering import natural
from surgery.matching.structure.pairing import LayerPair
from surgery.matching.structure.words import numbering

#: Numbered siblings: the module that holds them, and their name with its number left open.
Family = tuple[Path, str]
#: Of two families, one of either side: the pairs that lead from a member to a member.
Members = Mapping[tuple[str, str], Sequence[int]]


class Siblings:
    """The numbered siblings of one side: the rank of each in its family, where there are two or
    more, and by a layer's path the families that it stands in, with its member of each.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)
        self.families = _families(self.layers)
        self.places = {layer.path: self._places(layer.path) for layer in self.layers}

    def _places(self, path: Path) -> list[tuple[Family, str]]:
        found = []
        for depth, segment in enumerate(path):
            template, numbers = numbering(segment)
            if numbers and (family := (path[:depth], template)) in self.families:
                found.append((family, segment))
        return found


def _families(layers: Iterable[Layer]) -> dict[Family, dict[str, int]]:
    found: dict[Family, set[str]] = defaultdict(set)
    for layer in layers:
        for depth, segment in enumerate(layer.path):
            template, numbers = numbering(segment)
            if numbers:
                found[layer.path[:depth], template].add(segment)
    return {
        family: {m: rank for rank, m in enumerate(sorted(members, key=lambda m: natural((m,))))}
        for family, members in found.items()
        if len(members) > 1
    }


@dataclass(frozen=True)
class RowPairs:
    """The siblings of both sides, and by two families, one of either, the pairs between them."""

    ours: Siblings
    theirs: Siblings
    members: Mapping[tuple[Family, Family], Members]


def row_pairs(
    pairs: Sequence[LayerPair], sources: Iterable[Layer], targets: Iterable[Layer]
) -> RowPairs:
    """All layers of both sides, those without a pair included, as numbered siblings."""
    ours, theirs = Siblings(sources), Siblings(targets)
    found: dict[tuple[Family, Family], dict[tuple[str, str], list[int]]] = defaultdict(dict)
    for at, pair in enumerate(pairs):
        there = theirs.places[pair.target.path]
        for family, member in ours.places[pair.source.path]:
            for other, partner in there:
                found[family, other].setdefault((member, partner), []).append(at)
    return RowPairs(ours, theirs, found)
