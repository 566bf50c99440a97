"""Pairs of names -> a few pairs of patterns, as a mapping's plain lines have them.

What the two names end in is carried over by itself, and numbers that are the same on both sides
become ``*``. Where numbers are counted differently (``layers.0`` is ``block1``), a line for each
layer and lines for what every layer holds are fewer than their products.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from surgery.collapse import split_numbers

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Segments of the source and what stands for them in the target, with ``*`` for numbers that
    are carried over.

    ``inner`` says that it is meant anywhere in a name, not at its beginning.
    """

    source: Path
    target: Path
    inner: bool = False


def fold_pairs(pairs: Iterable[tuple[str, str]]) -> list[Fold]:
    """Lines that rename every pair's first name to its second."""
    split = [(_path(source), _path(target)) for source, target in pairs]
    parts = dict.fromkeys(_counterparts(split))
    folded = fold_numbers([(".".join(source), ".".join(target)) for source, target in parts])
    folds = (Fold(_path(each.texts[0]), _path(each.texts[1])) for each in folded)
    return [fold for fold in folds if fold.source != fold.target]


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
    for place in range(len(last)):
        places = []
        for text, row in enumerate(firsts):
            after = found[-1][text] + 1 if found else 0
            same = (
                at
                for at in range(after, len(row))
                if all(numbers[text][at] == numbers[-1][place] for numbers in members)
            )
            places += [at for at in [next(same, None)] if at is not None]
        if len(places) == len(firsts):
            found.append((*places, place))
    return found


def _replaced(numbers: tuple[Path, ...], starred: Iterable[tuple[int, ...]]) -> tuple[Path, ...]:
    rows = [list(row) for row in numbers]
    for places in starred:
        for row, place in zip(rows, places, strict=True):
            row[place] = "*"
    return tuple(map(tuple, rows))


@dataclass(frozen=True, slots=True)
class _Split:
    """A fold as two, the second inside what the first names."""

    outer: Fold
    inner: Fold


def factored(folds: Sequence[Fold]) -> list[Fold]:
    """Lines for layers and lines for what they hold, where these are fewer than the folds.

    Every line costs one, shared by all that use it; what the others chose decides what is cheap.
    """
    splits = {fold: list(dict.fromkeys(_splits(fold))) for fold in folds}
    chosen: dict[Fold, _Split | None] = {}
    every = [split for each in splits.values() for split in each]
    inner = Counter(split.inner for split in every)
    uses = Counter(split.outer for split in every) + inner
    for last in (False, False, False, True):
        if last:
            uses = Counter(part for s in chosen.values() if s for part in (s.outer, s.inner))
        chosen = {fold: _cheapest(fold, each, uses, chosen) for fold, each in splits.items()}
        uses = Counter(split.outer for split in chosen.values() if split) + inner
    outer = dict.fromkeys(split.outer if split else fold for fold, split in chosen.items())
    held = dict.fromkeys(split.inner for split in chosen.values() if split)
    found = [*(fold for fold in outer if fold.source != fold.target), *held]
    return found if len(found) < len(folds) else list(folds)


def _splits(fold: Fold) -> Iterator[_Split]:
    """A layer has a number, on both sides."""
    for at in range(1, len(fold.source)):
        for to in range(len(fold.target) + 1):
            outer = Fold(fold.source[:at], fold.target[:to])
            inner = Fold(fold.source[at:], fold.target[to:], inner=True)
            if (
                _numbered(fold.source[at - 1])
                and (not to or _numbered(fold.target[to - 1]))
                and _stars(outer.source) == _stars(outer.target)
                and any(map(_is_word, inner.source))
                and inner.source != inner.target
            ):
                yield _Split(outer, inner)


def _stars(path: Path) -> int:
    return sum(segment.count("*") for segment in path)


def _numbered(segment: str) -> bool:
    return "*" in segment or any(map(str.isdecimal, segment))


def _is_word(segment: str) -> bool:
    return not segment.replace("*", "").isdecimal() and segment != "*"


def _cheapest(
    fold: Fold,
    splits: Sequence[_Split],
    uses: Counter[Fold],
    chosen: dict[Fold, _Split | None],
) -> _Split | None:
    """The split whose two lines, shared with all that use them, cost less than the fold itself."""

    def cost(split: _Split) -> float:
        return price(split.outer) + price(split.inner)

    def price(part: Fold) -> float:
        if part.source == part.target or (not part.inner and chosen.get(part, part) is None):
            return 0.0
        return 1 / max(uses[part], 1)

    best = min(splits, key=cost, default=None)
    return best if best and cost(best) < 1 else None


def _path(text: str) -> Path:
    return tuple(text.split(".")) if text else ()
