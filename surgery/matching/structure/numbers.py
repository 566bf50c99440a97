"""The order that names speak of (``layer1`` before ``layer2``), and what numbers count.

Numbers are an order only where both sides count one thing: rows of one form and length, of
modules that run one behind the other. Levels of a pyramid, towers and branches are numbered from
either end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import pairwise

from surgery.matching.structure.layers import Layer, Path
from surgery.matching.structure.words import compare, is_stack, natural_key, numbering

#: Numbered siblings: the module that holds them, and their name with its number left open.
Family = tuple[Path, str]
#: By a family of either side, the places in them of what is decided.
Anchors = Mapping[tuple[Family, Family], Sequence[tuple[int, int]]]


def natural(path: Path) -> tuple[object, ...]:
    """A sorting key that reads numbers as numbers, segment by segment."""
    return tuple(natural_key(segment) for segment in path)


def _parting(one: Path, other: Path) -> int:
    """How many segments two paths share before they differ."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def before(one: Path, other: Path) -> int | None:
    """-1 or 1 by the first segment in which two paths differ; None where it says nothing."""
    depth = _parting(one, other)
    return compare(one[depth], other[depth]) if depth < min(len(one), len(other)) else None


def chain(paths: Iterable[Path]) -> list[Path] | None:
    """The paths in the one order that their names give them; None where any two have none."""
    ordered = sorted(paths, key=natural)
    if len(ordered) == 2 and before(*ordered) == 1:
        ordered.reverse()  # words of order do not sort by letters
    # Numbers are transitive along a sorted list, words of order need not be.
    for step in (1, 2):
        if any(before(a, b) != -1 for a, b in zip(ordered, ordered[step:], strict=False)):
            return None
    return ordered


@dataclass(frozen=True, slots=True)
class Families:
    """The numbered siblings of one side, by their paths from a module of it: the rank of each in
    its family, and whether it holds matrices, and other layers.
    """

    held: Mapping[Family, Mapping[str, Set[bool]]]
    sizes: Mapping[Path, int]
    prefix: Path = ()
    found: dict[Family, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Iterable[Layer]) -> Families:
        """All of a network's; layers that the other side lacks are counted too."""
        held: dict[Family, dict[str, set[bool]]] = defaultdict(lambda: defaultdict(set))
        sizes: Counter[Path] = Counter()
        for layer in layers:
            sizes.update(layer.path[:depth] for depth in range(len(layer.path) + 1))
            for family, member in _numbered(layer.path):
                held[family][member].add(layer.is_matrix)
        return cls(held, sizes)

    def below(self, prefix: Path) -> Families:
        """The same, by paths from a module."""
        return replace(self, prefix=prefix, found={})

    @property
    def in_block(self) -> bool:
        """Whether the module is a numbered one, or lies in one."""
        return any(numbering(segment)[1] for segment in self.prefix)

    def _members(self, family: Family) -> Mapping[str, Set[bool]]:
        return self.held.get(((*self.prefix, *family[0]), family[1]), {})

    def ranks(self, family: Family) -> Mapping[str, int]:
        if family not in self.found:
            ordered = sorted(self._members(family), key=natural_key)
            self.found[family] = {member: rank for rank, member in enumerate(ordered)}
        return self.found[family]

    def places(self, path: Path) -> list[tuple[Family, int]]:
        """The families that a layer or module stands in, with its rank in each."""
        found = ((family, self.ranks(family).get(member)) for family, member in _numbered(path))
        return [(family, rank) for family, rank in found if rank is not None]

    def size(self, family: Family, is_matrix: bool) -> int:
        """How many members of a family hold a matrix, or another layer."""
        return sum(is_matrix in held for held in self._members(family).values())

    def inner(self, path: Path) -> list[str]:
        """The segments of a path but those of modules around most of what is here."""
        most, whole = self.sizes[self.prefix] / 2, (*self.prefix, *path)
        deep = len(self.prefix)
        return [s for at, s in enumerate(path, deep + 1) if self.sizes[whole[:at]] <= most]

    def runs(self, family: Family) -> bool:
        """Whether all words down to a family are those of modules that run one behind the other;
        around most of the network a module may have any name.
        """
        return all(map(is_stack, [*self.inner(family[0]), self.word(family)]))

    def word(self, family: Family) -> str:
        """The name of a family, or of the module that holds nothing but numbers."""
        path, template = family
        return template if template.strip("#_-.") else (*self.prefix, *path, "")[-2:][0]


def _numbered(path: Path) -> Iterator[tuple[Family, str]]:
    for depth, segment in enumerate(path):
        template, numbers = numbering(segment)
        if numbers:
            yield (path[:depth], template), segment


def anchors_of(pairs: Iterable[tuple[Path, Path]], families: Sequence[Families]) -> Anchors:
    """The places of decided pairs in the families of both sides."""
    found: dict[tuple[Family, Family], list[tuple[int, int]]] = defaultdict(list)
    for source, target in pairs:
        there = families[1].places(target)
        for family, rank in families[0].places(source):
            for other, other_rank in there:
                found[family, other].append((rank, other_rank))
    return found


Form = tuple[object, ...]


def form(ordered: Sequence[Path]) -> Form:
    """How numbers nest in a list of paths: ``(((), ()), ((), ()))`` for two rows of two."""
    if len(ordered) == 1:
        return ()
    depth = min(_parting(ordered[0], path) for path in ordered[1:])
    rows: dict[str, list[Path]] = defaultdict(list)
    for path in ordered:
        rows[path[depth]].append(path)
    return tuple(form(row) for row in rows.values())


class Rows:
    """Two lists that are to be paired by their order, and the families that they go through."""

    def __init__(
        self, ends: tuple[list[Path], list[Path]], families: Sequence[Families], anchors: Anchors
    ) -> None:
        self.ends, self.families = ends, families
        couples = dict.fromkeys(zip(*map(_steps, ends), strict=True))
        self.by_words = any(not one or not other for one, other in couples)
        self.one_by_words = any(bool(one) != bool(other) for one, other in couples)
        self.couples = [(one, other) for one, other in couples if one and other]
        self.around = {couple: list(self._around(couple, anchors)) for couple in self.couples}

    def counted_alike(self, is_matrix: bool) -> bool:
        """Whether families of the two sides have as many members of this sort."""
        sizes = [side.size for side in self.families]
        return all(
            sizes[0](one, is_matrix) == sizes[1](two, is_matrix) for one, two in self.couples
        )

    def directed(self) -> bool:
        """Whether it is known that both sides count in one direction: by what is decided beside,
        or as their words are those of modules that run one behind the other. A decided pair tells
        it that has as many of the lists before it on both sides, and not as many behind.
        """
        return not self.one_by_words and all(
            any(mine == yours != count - mine for mine, yours, count in self.around[one, other])
            or (self.families[0].runs(one) and self.families[1].runs(other))
            for one, other in self.couples
        )

    def contradicted(self) -> bool:
        """Whether what is decided beside stands in another order."""
        return any(mine != yours for found in self.around.values() for mine, yours, _ in found)

    def _around(
        self, couple: tuple[Family, Family], anchors: Anchors
    ) -> Iterator[tuple[int, int, int]]:
        """For each decided pair of two families, how many of the lists stand before it."""
        ours, theirs = (
            sorted(rank for path in paths for own, rank in side.places(path) if own == family)
            for paths, side, family in zip(self.ends, self.families, couple, strict=True)
        )
        if len(ours) == len(theirs):
            for rank, other_rank in anchors.get(couple, ()):
                yield bisect_left(ours, rank), bisect_left(theirs, other_rank), len(ours)


def _steps(ordered: Sequence[Path]) -> Iterator[Family | None]:
    """Between each two neighbours the family in which they part; None where words part them."""
    for one, other in pairwise(ordered):
        depth = _parting(one, other)
        template, numbers = numbering(one[depth])
        yield (
            (one[:depth], template) if numbers and numbering(other[depth])[0] == template else None
        )
