"""Pairs of names -> a few pairs of patterns, as a mapping's plain lines have them.

What the two names end in is carried over by itself, and numbers that are the same on both sides
become ``*``. Where numbers are counted differently (``layers.0`` is ``block1``), a line for each
layer and lines for what every layer holds are fewer than their products.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from surgery.collapse import split_numbers

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """Segments of the source and what stands for them in the target, with ``*`` for numbers that
    are carried over.

    ``held`` says to what of a name it is held: to its ``"beginning"``, or to the ``"whole"``. One
    that is not is meant at the beginning too, unless it is for what is ``"inside"`` of layers.
    """

    source: Path
    target: Path
    held: Literal["", "inside", "beginning", "whole"] = ""

    @property
    def sides(self) -> tuple[str, str]:
        """What stands left and right of the arrow."""
        left, right = ".".join(self.source), ".".join(self.target)
        if self.held in ("", "inside"):
            return left, right
        right = right.replace("\\", r"\\")
        if self.held == "whole":
            return f"^{_escaped(left)}$", right
        first, *parts = right.split("*")
        for group, part in enumerate(parts, start=1):
            first += (rf"\g<{group}>" if part[:1].isdigit() else rf"\{group}") + part
        return "^" + "([^.]+)".join(map(_escaped, left.split("*"))), first

    def __str__(self) -> str:
        left, right = self.sides
        return f"{left} -> {right}"

    def strays(self, name: str) -> bool:
        """Whether it is meant for the beginning of names, and meets this one elsewhere."""
        left, _ = replace(self, held="beginning").sides
        return not self.held and re.match(rf"{left}(?:\.|$)", name) is None


def _escaped(text: str) -> str:
    """A regular expression for the text, without any space and without what begins a comment."""
    odd = re.sub(r"[^\w.\-]", lambda found: rf"\U{ord(found[0]):08x}", text)
    return odd.replace(".", r"\.")


def fold_pairs(pairs: Iterable[tuple[str, str]]) -> list[Line]:
    """Lines that rename every pair's first name to its second."""
    split = [(_path(source), _path(target)) for source, target in pairs]
    parts = dict.fromkeys(_counterparts(split))
    folded = fold_numbers([(".".join(source), ".".join(target)) for source, target in parts])
    lines = (Line(_path(each.texts[0]), _path(each.texts[1])) for each in folded)
    return [line for line in lines if line.source != line.target]


def _counterparts(split: Sequence[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    """For each pair the shortest path of the source that has one counterpart: all that is below
    it is called the same below that.
    """
    meanings: dict[Path, Counter[Path | None]] = defaultdict(Counter)
    for source, target in split:
        for depth in range(1, len(source) + 1):
            kept = len(target) - (len(source) - depth)
            same = kept >= 0 and target[kept:] == source[depth:]
            meanings[source[:depth]][target[:kept] if same else None] += 1
    for source, target in split:
        for depth in range(1, len(source)):
            (meant, count), *others = meanings[source[:depth]].most_common(2)
            # `a.b -> ` for the sake of one tensor would hide which it is.
            if not others and meant is not None and (meant or count > 1):
                yield source[:depth], meant
                break
        else:
            yield source, target


@dataclass(frozen=True, slots=True)
class Starred:
    """Texts that agree but for numbers, with ``*`` for those that vary; the ``n``-th ``*`` of
    every text stands for the same. ``members`` are the places of the tuples that were folded.
    """

    texts: tuple[str, ...]
    members: tuple[int, ...]


#: The numbers of each text of a tuple, and where the tuple was.
_Member = tuple[int, tuple[Path, ...]]


def fold_numbers(tuples: Sequence[tuple[str, ...]]) -> list[Starred]:
    """Fold tuples of texts whose last text carries numbers of all others, unchanged.

    In the order of the first of each. A number that no other tuple varies is left as it is.

    >>> [f.texts for f in fold_numbers([("h.0.ln", "b.0.n"), ("h.1.ln", "b.1.n")])]
    [('h.*.ln', 'b.*.n')]
    """
    families: dict[tuple[Path, ...], list[_Member]] = defaultdict(list)
    for at, texts in enumerate(tuples):
        fixed, numbers = zip(*map(split_numbers, texts), strict=True)
        families[fixed].append((at, numbers))
    found = [each for fixed, members in families.items() for each in _starred(fixed, members)]
    return sorted(found, key=lambda starred: starred.members[0])


def _starred(fixed: tuple[Path, ...], members: Sequence[_Member]) -> Iterator[Starred]:
    carried = _carried([numbers for _, numbers in members])
    groups: dict[tuple[Path, ...], list[_Member]] = defaultdict(list)
    for at, numbers in members:
        groups[_replaced(numbers, carried)].append((at, numbers))
    for group in groups.values():
        varying = [places for places in carried if len({n[-1][places[-1]] for _, n in group}) > 1]
        texts = (
            "".join(piece for pair in zip(around, (*row, ""), strict=True) for piece in pair)
            for around, row in zip(fixed, _replaced(group[0][1], varying), strict=True)
        )
        yield Starred(tuple(texts), tuple(at for at, _ in group))


def _carried(members: Sequence[tuple[Path, ...]]) -> list[tuple[int, ...]]:
    """The numbers that all members carry into the last text: the place of each in every text."""
    *firsts, last = members[0]
    found: list[tuple[int, ...]] = []
    after = [0] * len(firsts)
    for place in range(len(last)):
        places = []
        for text, row in enumerate(firsts):
            same = (
                at
                for at in range(after[text], len(row))
                if all(numbers[text][at] == numbers[-1][place] for numbers in members)
            )
            places.append(next(same, -1))
        if -1 not in places:
            found.append((*places, place))
            after = [at + 1 for at in places]
    return found


def _replaced(numbers: tuple[Path, ...], starred: Iterable[tuple[int, ...]]) -> tuple[Path, ...]:
    rows = [list(row) for row in numbers]
    for places in starred:
        for row, place in zip(rows, places, strict=True):
            row[place] = "*"
    return tuple(map(tuple, rows))


#: A line as two, the second for what is inside of what the first names.
_Split = tuple[Line, Line]


def factored(lines: Sequence[Line]) -> list[Line]:
    """Lines for layers and lines for what they hold, where these are fewer than the lines.

    Every line costs one, shared by all that use it; what the others chose decides what is cheap.
    """
    splits = {line: list(dict.fromkeys(_splits(line))) for line in lines}
    every = [split for each in splits.values() for split in each]
    inside = Counter(held for _, held in every)
    uses = Counter(layer for layer, _ in every) + inside
    chosen: dict[Line, _Split | None] = {}
    for last in (False, False, True):
        if last:
            uses = Counter(part for split in chosen.values() if split for part in split)
        chosen = {line: _cheapest(each, uses, chosen) for line, each in splits.items()}
        uses = Counter(split[0] for split in chosen.values() if split) + inside
    layers = dict.fromkeys(split[0] if split else line for line, split in chosen.items())
    held = dict.fromkeys(split[1] for split in chosen.values() if split)
    found = [*(line for line in layers if line.source != line.target), *held]
    return found if len(found) < len(lines) else list(lines)


def _splits(line: Line) -> Iterator[_Split]:
    """A layer has a number, on both sides."""
    for at in range(1, len(line.source)):
        for to in range(len(line.target) + 1):
            layer = Line(line.source[:at], line.target[:to])
            held = Line(line.source[at:], line.target[to:], "inside")
            if (
                _numbered(line.source[at - 1])
                and (not to or _numbered(line.target[to - 1]))
                and _stars(layer.source) == _stars(layer.target)
                and any(map(_is_word, held.source))
                and held.source != held.target
            ):
                yield layer, held


def _stars(path: Path) -> int:
    return sum(segment.count("*") for segment in path)


def _numbered(segment: str) -> bool:
    return "*" in segment or any(map(str.isdecimal, segment))


def _is_word(segment: str) -> bool:
    return not segment.replace("*", "").isdecimal() and segment != "*"


def _cheapest(
    splits: Sequence[_Split], uses: Counter[Line], chosen: Mapping[Line, _Split | None]
) -> _Split | None:
    """The split whose two lines, shared with all that use them, cost less than one of its own."""

    def price(part: Line) -> float:
        stands = part.source == part.target or (not part.held and chosen.get(part, part) is None)
        return 0.0 if stands else 1 / max(uses[part], 1)

    def cost(split: _Split) -> float:
        return sum(map(price, split))

    best = min(splits, key=cost, default=None)
    return best if best and cost(best) < 1 else None


def _path(text: str) -> Path:
    return tuple(text.split(".")) if text else ()
