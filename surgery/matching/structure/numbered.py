"""Pairs that go by numbers, where other numbers tell that these count something else.

``norm1.0, norm1.1, norm2.0, norm2.1`` are the norms of two blocks kind by kind, and ``0.norm1,
0.norm2, 1.norm1, 1.norm2`` block by block: both are in order, and not in one order. A decoder
counts its levels as they run, or as the encoder does. Of two matrices that run side by side
neither is the first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, repeat

from surgery.matching.structure.consistency import pairs_by_module
from surgery.matching.structure.evidence import BY_NUMBER
from surgery.matching.structure.layers import Layer, Path, Signature
from surgery.matching.structure.pairing import LayerPair
from surgery.matching.structure.siblings import Family, RowPairs, Siblings
from surgery.matching.structure.tree import block_of, inside
from surgery.matching.structure.words import numbering, tokens


def misnumbered(pairs: Sequence[LayerPair], rows: RowPairs) -> dict[int, str]:
    """Pairs, by their place in ``pairs``, whose numbers count other things, each with the reason.

    ``rows`` are the numbered siblings of all layers, those without a pair included.
    """
    sides = _Rows(rows.ours), _Rows(rows.theirs)
    links = [_Link(*key, sides, pairs, members) for key, members in rows.members.items()]
    return {
        **_side_by_side(pairs),
        **_counted_back(links),
        **_climbing(links),
        **_beside_their_blocks(links),
        **_by_kind(links, _Enclosing(pairs)),
    }


class _Rows:
    """Numbered siblings of one side, and the layers in each."""

    def __init__(self, siblings: Siblings) -> None:
        self.families = siblings.families
        self._siblings = siblings
        self._rich: dict[Family, bool] = {}

    @cached_property
    def members(self) -> Mapping[Family, Mapping[str, Sequence[Layer]]]:
        """The layers in each member of each family."""
        found: dict[Family, dict[str, list[Layer]]] = defaultdict(lambda: defaultdict(list))
        for layer in self._siblings.layers:
            for family, member in self._siblings.places[layer.path]:
                found[family][member].append(layer)
        return found

    def is_rich(self, family: Family) -> bool:
        """Whether it holds layers of several shapes."""
        if family not in self._rich:
            held = self.members[family].values()
            self._rich[family] = len({x.signature for layers in held for x in layers}) > 1
        return self._rich[family]

    def is_list(self, family: Family) -> bool:
        """Whether it holds layers of one shape and nothing else, one at each number."""
        alone = all(len(layers) == 1 for layers in self.members[family].values())
        return alone and not self.is_rich(family)


@dataclass(frozen=True)
class _Link:
    """Two rows, one of either side, and the pairs that lead from one to the other, by the
    members that hold them.
    """

    source: Family
    target: Family
    rows: tuple[_Rows, _Rows]
    pairs: Sequence[LayerPair]
    members: Mapping[tuple[str, str], Sequence[int]]

    @property
    def all(self) -> list[int]:
        return [at for found in self.members.values() for at in found]

    @cached_property
    def is_whole(self) -> bool:
        """Whether each member of either row has one of the other."""
        sizes = (len(self.rows[0].families[self.source]), len(self.rows[1].families[self.target]))
        return self.is_one_to_one and sizes == self._sizes

    @property
    def is_one_to_one(self) -> bool:
        """Whether two or more members of either row lead to as many of the other."""
        return len(self.members) > 1 and self._sizes == (len(self.members),) * 2

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        return len({one for one, _ in self.members}), len({other for _, other in self.members})

    @cached_property
    def merges(self) -> tuple[bool, bool]:
        """Whether several members of the source's row lead to one, and the other way round."""
        return self._sizes[1] < len(self.members), self._sizes[0] < len(self.members)

    @cached_property
    def ranks(self) -> list[tuple[int, int]]:
        ours, theirs = self.rows[0].families[self.source], self.rows[1].families[self.target]
        return sorted((ours[one], theirs[other]) for one, other in self.members)

    def partners(self, side: int) -> set[str]:
        """The members of the other side's row that those of one side's lead to."""
        return {members[1 - side] for members in self.members}

    @property
    def falls(self) -> bool:
        """Whether one row counts up where the other counts down."""
        there = [other for _, other in self.ranks]
        return there == sorted(there, reverse=True)

    @cached_property
    def told_by_shapes(self) -> bool:
        """Whether no two members of a row hold the same shapes, of what leads to the other."""
        held = [
            tuple(sorted(self.pairs[at].source.signature for at in found))
            for found in self.members.values()
        ]
        return len({*held}) == len(held)


def _beside_their_blocks(links: Sequence[_Link]) -> dict[int, str]:
    """Layers that lead out of their block, where the matrices of all blocks stay together."""
    found: dict[int, str] = {}
    for link in links:
        heavy = [
            members
            for members, held in link.members.items()
            if any(link.pairs[at].source.is_matrix for at in held)
        ]
        if len(heavy) == len(link.members) or len(heavy) < 2:
            continue
        if replace(link, members=dict.fromkeys(heavy, ())).is_whole:
            for members in link.members.keys() - {*heavy}:
                reason = "the rest of its block is in another one"
                found |= dict.fromkeys(link.members[members], reason)
    return found


_KIND_BY_KIND = "one side may number its layers kind by kind, the other block by block"


class _Enclosing:
    """Asks whether a row's one member holds all that stands around a list on the other side."""

    def __init__(self, pairs: Sequence[LayerPair]) -> None:
        self._paths = [pair.source.path for pair in pairs], [pair.target.path for pair in pairs]
        self._modules = tuple(map(pairs_by_module, self._paths))

    def __call__(self, link: _Link, side: int) -> bool:
        ends, (partner,) = (link.source, link.target), link.partners(side)
        path, held = ends[side][0], {*link.all}
        while path and held.issuperset(self._modules[side][path]):
            path = path[:-1]
        around = (*ends[1 - side][0], partner)
        if held.issuperset(self._modules[1 - side][around]):
            return True
        there = (self._paths[1 - side][at] for at in self._modules[side].get(path, ()))
        return bool(path) and all(inside(other, around) for other in there)


def _by_kind(links: Sequence[_Link], encloses: _Enclosing) -> dict[int, str]:
    """Lists of one kind of layer against blocks that hold several of it, and against lists that
    number them in another way.
    """
    found: dict[int, str] = {}
    for side in (0, 1):
        merged = [link for link in links if _merges_list(link, side)]
        alike = Counter(map(_row_and_kind, merged, repeat(side)))
        for link in merged:
            several = len(link.partners(side)) > 1
            beside = alike[_row_and_kind(link, side)] > 1
            if several or (beside and not encloses(link, side)):
                found |= dict.fromkeys(link.all, _KIND_BY_KIND)
        found |= _shared_lists(links, side)
    for link in links:
        ends = link.source, link.target
        if (
            ends[0][1] != ends[1][1]
            and all(rows.is_list(end) for rows, end in zip(link.rows, ends, strict=True))
            and _varies(link) > 1
        ):
            found |= dict.fromkeys(link.all, _KIND_BY_KIND)
    return found


def _row_and_kind(link: _Link, side: int) -> tuple[Family, Signature]:
    """The row that a list on one side leads to, and what is in the list."""
    return (link.source, link.target)[1 - side], link.pairs[link.all[0]].source.signature


def _merges_list(link: _Link, side: int) -> bool:
    """Whether several layers of a list, on one side, lead into one block of the other."""
    ends = link.source, link.target
    return (
        link.merges[side]
        and link.rows[side].is_list(ends[side])
        and link.rows[1 - side].is_rich(ends[1 - side])
    )


def _varies(link: _Link) -> int:
    """The most places of one row's names in which numbers differ."""
    ends = (link.source, link.target)
    return max(
        sum(len({*at}) > 1 for at in zip(*_numbers(rows, end), strict=True))
        for rows, end in zip(link.rows, ends, strict=True)
    )


def _numbers(rows: _Rows, family: Family) -> list[tuple[int, ...]]:
    return [numbering(member)[1] for member in rows.families[family]]


def _shared_lists(links: Sequence[_Link], side: int) -> dict[int, str]:
    """A list of one kind that several rows of the other side fill, of which none is a stage:
    it may hold them one behind the other, or in turns.
    """
    parts: dict[Family, list[_Link]] = defaultdict(list)
    for link in links:
        end, other = (link.source, link.target) if side == 0 else (link.target, link.source)
        if len(link.members) > 1 and link.rows[side].is_list(end):
            size = len(link.rows[1 - side].families[other])
            if size < len(link.rows[side].families[end]) and size == len(link.members):
                parts[end].append(link)
    found: dict[int, str] = {}
    for shared in parts.values():
        ends = [link.target if side == 0 else link.source for link in shared]
        if len(shared) > 1 and not all(
            _stages(one, other) and link.rows[1 - side].is_rich(one)
            for link, one, other in zip(shared, ends, ends[1:] + ends[:1], strict=True)
        ):
            found |= {at: _KIND_BY_KIND for link in shared for at in link.all}
    return found


def _stages(one: Family, other: Family) -> bool:
    """Whether two rows stand in modules whose names differ in numbers alone."""
    templates = [[numbering(segment)[0] for segment in path] for path, _ in (one, other)]
    return templates[0] == templates[1]


def _counted_back(links: Sequence[_Link]) -> dict[int, str]:
    """Rows paired by their numbers beside rows of one length whose shapes pair them backwards."""
    back: dict[object, list[_Link]] = defaultdict(list)
    for link in links:
        if link.is_one_to_one and link.falls and link.told_by_shapes:
            back[_block_and_length(link)].append(link)
    found: dict[int, str] = {}
    for link in links if back else ():
        if not link.is_one_to_one or link.told_by_shapes or link.falls:
            continue
        if any(_near(link, other) for other in back.get(_block_and_length(link), ())):
            reason = "numbers beside it run backwards on one side, by their shapes"
            found |= dict.fromkeys(link.all, reason)
    return found


def _block_and_length(link: _Link) -> tuple[Path | int, ...]:
    ends = (block_of((*path, "")) for path, _ in (link.source, link.target))
    return (*ends, len(link.members))


def _near(one: _Link, other: _Link) -> bool:
    """Whether rows stand in one module, or in modules side by side, on both sides."""
    return all(
        mine[: min(len(mine), len(yours)) - 1] == yours[: min(len(mine), len(yours)) - 1]
        or inside(mine, yours)
        or inside(yours, mine)
        for (mine, _), (yours, _) in ((one.source, other.source), (one.target, other.target))
    )


#: Words for the half of a network that goes back up to a picture.
_UP = frozenset({"up", "ups", "upconv", "dec", "decoder", "decoders", "decode", "deconv", "expand"})


def _climbing(links: Sequence[_Link]) -> dict[int, str]:
    """Convolutions of the half that goes up, numbered under two words: one side may count its
    levels as they run, the other as the way down does.
    """
    found: dict[int, str] = {}
    for link in links:
        words = [_words(family) for family in (link.source, link.target)]
        if words[0] == words[1] or _UP.isdisjoint(words[0] | words[1]):
            continue
        if link.is_whole and not link.told_by_shapes and _over_pictures(link):
            reason = "levels of the way up may be numbered from either end"
            found |= dict.fromkeys(link.all, reason)
    return found


def _words(family: Family) -> frozenset[str]:
    """The words of a row's name, or of the module that it is all of."""
    path, template = family
    own = frozenset(word for word in tokens(template) if not word.isdigit())
    return own or frozenset(word for word in tokens(path[-1] if path else "") if not word.isdigit())


def _over_pictures(link: _Link) -> bool:
    held = link.rows[0].members[link.source].values()
    return any(layer.kernels for layers in held for layer in layers)


def _side_by_side(pairs: Sequence[LayerPair]) -> dict[int, str]:
    """Two matrices of one shape beside one that leads back from their outputs to their inputs:
    they run side by side, one gates the other, and a number does not say which.
    """
    beside: dict[tuple[Path, Path], list[int]] = defaultdict(list)
    for at, pair in enumerate(pairs):
        if pair.source.is_matrix:
            beside[pair.source.path[:-1], pair.target.path[:-1]].append(at)
    found: dict[int, str] = {}
    for members in beside.values():
        for one, other in _numbered_twins(pairs, members):
            reason = "either of them may gate the other, whatever their numbers are"
            found |= dict.fromkeys((one, other), reason)
    return found


def _numbered_twins(
    pairs: Sequence[LayerPair], members: Sequence[int]
) -> Iterator[tuple[int, int]]:
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for at in members:
        if (channels := pairs[at].source.channels) is not None:
            shapes[channels].append(at)
    for (outputs, inputs), held in shapes.items():
        if len(held) == 2 and outputs != inputs and len(shapes.get((inputs, outputs), ())) == 1:
            yield from (
                twins
                for twins in combinations(held, 2)
                if all(pairs[x].why == BY_NUMBER for x in twins)
            )
