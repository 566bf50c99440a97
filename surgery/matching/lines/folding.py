"""Pairs of names -> a few pairs of patterns, as a rename file's plain lines have them.

What the two names end in alike is carried over by itself, and numbers that are the same on both
sides become ``*``. Where numbers are counted differently (``layers.0`` is ``block1``), a line for
each layer and lines for what every layer holds are fewer than their products.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Path = tuple[str, ...]
_DIGITS = re.compile(r"(\d+)")
# No network nests so deep; a stranger's name may hold thousands of numbers.
_MOST_NUMBERS = 32


@dataclass(frozen=True, slots=True)
class Fold:
    """Segments of the source and what stands for them in the target, with ``*`` for numbers that
    are carried over.

    ``inner`` says that it is meant anywhere in a name, not at its beginning.
    """

    source: Path
    target: Path
    inner: bool = False

    @property
    def stars(self) -> int:
        return sum(segment.count("*") for segment in self.source)


def changed_parts(
    pairs: Iterable[tuple[str, str]], *, apart: bool = False
) -> list[tuple[str, str]]:
    """What a line must say of each pair of names: both without what they end in alike.

    As much is left standing that no path stands for what is not below its counterpart, as long as
    that is not said of a longer path; or ``apart`` from that, too.

    >>> changed_parts([("encoder.layer.0.norm.weight", "blocks.0.norm.weight")])
    [('encoder.layer', 'blocks')]
    """
    split = [(_path(source), _path(target)) for source, target in pairs]
    depths = [_changed_depth(source, target) for source, target in split]
    for _ in range(max((len(source) for source, _ in split), default=0)):
        longer = _held_by_others(split, depths)
        if not longer:
            break
        for at in longer:
            depths[at] += 1
    above = _above(split, depths) if apart else frozenset()
    alone = Counter(source[:depth] for (source, _), depth in zip(split, depths, strict=True))
    for at, (source, target) in enumerate(split):
        part = source[: depths[at]]
        # `a.b -> ` for the sake of one tensor would hide which it is.
        dropped = len(target) == len(source) - depths[at] and alone[part] == 1
        if 0 < depths[at] < len(source) and (part in above or dropped):
            depths[at] += 1
    return [_cut(*pair, depth) for pair, depth in zip(split, depths, strict=True)]


def _above(split: Sequence[tuple[Path, Path]], depths: Sequence[int]) -> frozenset[Path]:
    return frozenset(
        source[:up] for (source, _), depth in zip(split, depths, strict=True) for up in range(depth)
    )


def _changed_depth(source: Path, target: Path) -> int:
    """How many segments of the source differ; at least one, and none of equal names."""
    if source == target:
        return 0
    same = 0
    for one, other in zip(reversed(source[1:]), reversed(target), strict=False):
        if one != other:
            break
        same += 1
    return len(source) - same


def _held_by_others(split: Sequence[tuple[Path, Path]], depths: Sequence[int]) -> list[int]:
    """Pairs whose path also has below it what a shorter one stands for, or another meaning."""
    crossed: set[Path] = set()
    meanings: dict[Path, Counter[Path]] = defaultdict(Counter)
    for (source, target), depth in zip(split, depths, strict=True):
        crossed.update(source[:below] for below in range(depth + 1, len(source)))
        meanings[source[:depth]][target[: len(target) - len(source) + depth]] += 1
    usual = {path: max(counts, key=counts.__getitem__) for path, counts in meanings.items()}
    return [
        at
        for at, ((source, target), depth) in enumerate(zip(split, depths, strict=True))
        if 0 < depth < len(source)
        and (
            source[:depth] in crossed
            or usual[source[:depth]] != target[: len(target) - len(source) + depth]
        )
    ]


def _cut(source: Path, target: Path, depth: int) -> tuple[str, str]:
    depth = depth or max(len(source) - 1, 1)  # of equal names, all but the last segment
    kept = len(source) - depth
    return ".".join(source[:depth]), ".".join(target[: len(target) - kept])


@dataclass(frozen=True, slots=True)
class Starred:
    """Texts that agree but for numbers, with ``*`` for those that vary; the ``n``-th ``*`` of
    every text stands for the same. ``members`` are the places of the tuples that were folded.
    """

    texts: tuple[str, ...]
    members: tuple[int, ...]


def fold_numbers(tuples: Sequence[tuple[str, ...]]) -> list[Starred]:
    """Fold tuples of texts whose last text carries numbers of all others, unchanged.

    In the order of the first of each. A number that no other tuple varies is left as it is.

    >>> [f.texts for f in fold_numbers([("h.0.ln", "b.0.n"), ("h.1.ln", "b.1.n")])]
    [('h.*.ln', 'b.*.n')]
    """
    families: dict[tuple[Path, ...], list[tuple[int, tuple[Path, ...]]]] = defaultdict(list)
    for at, texts in enumerate(tuples):
        parts = [_DIGITS.split(text, _MOST_NUMBERS) for text in texts]
        template = tuple(tuple(part[0::2]) for part in parts)
        families[template].append((at, tuple(tuple(part[1::2]) for part in parts)))
    folded = [
        starred
        for template, members in families.items()
        for starred in _fold_family(template, members)
    ]
    return sorted(folded, key=lambda starred: starred.members[0])


def _fold_family(
    template: tuple[Path, ...], members: Sequence[tuple[int, tuple[Path, ...]]]
) -> Iterator[Starred]:
    stars = _carried([numbers for _, numbers in members])
    groups: dict[tuple[Path, ...], list[tuple[int, tuple[Path, ...]]]] = defaultdict(list)
    for member in members:
        groups[_without(member[1], stars)].append(member)
    for group in groups.values():
        varying = [
            tuple(place[n] for place in stars)
            for n in range(len(stars[-1]))
            if len({numbers[-1][stars[-1][n]] for _, numbers in group}) > 1
        ]
        texts = tuple(
            _with_stars(fixed, numbers, {place[text] for place in varying})
            for text, (fixed, numbers) in enumerate(zip(template, group[0][1], strict=True))
        )
        yield Starred(texts, tuple(at for at, _ in group))


def _carried(members: Sequence[tuple[Path, ...]]) -> list[list[int]]:
    """For each text, which of its numbers all members carry into the last text, in order."""
    *firsts, last = range(len(members[0]))
    stars: list[list[int]] = [[] for _ in members[0]]
    for position in range(len(members[0][last])):
        places = []
        for text in firsts:
            after = stars[text][-1] + 1 if stars[text] else 0
            place = next(
                (
                    p
                    for p in range(after, len(members[0][text]))
                    if all(numbers[text][p] == numbers[last][position] for numbers in members)
                ),
                None,
            )
            places.append(place)
        found = [place for place in places if place is not None]
        if len(found) == len(firsts):
            for text, place in zip(firsts, found, strict=True):
                stars[text].append(place)
            stars[last].append(position)
    return stars


def _without(numbers: tuple[Path, ...], stars: Sequence[Sequence[int]]) -> tuple[Path, ...]:
    return tuple(
        tuple(n for at, n in enumerate(row) if at not in places)
        for row, places in zip(numbers, stars, strict=True)
    )


def _with_stars(fixed: Path, numbers: Path, starred: set[int]) -> str:
    text = fixed[0]
    for at, (number, after) in enumerate(zip(numbers, fixed[1:], strict=True)):
        text += ("*" if at in starred else number) + after
    return text


def fold_pairs(pairs: Iterable[tuple[str, str]], *, apart: bool = False) -> list[Fold]:
    """A line for each part that changes, numbers that are carried over folded; ``apart`` as for
    :func:`changed_parts`.
    """
    parts = list(dict.fromkeys(changed_parts(pairs, apart=apart)))
    return [Fold(_path(s.texts[0]), _path(s.texts[1])) for s in fold_numbers(parts)]


def _path(text: str) -> Path:
    return tuple(text.split(".")) if text else ()


def factor(folds: Sequence[Fold]) -> list[Fold]:
    """Lines for layers and lines for what they hold, where these are fewer than the folds."""
    fewer = _factored(folds)
    return fewer if len(fewer) < len(folds) else list(folds)


@dataclass(frozen=True, slots=True)
class _Split:
    """A fold as two, the second inside what the first names."""

    outer: Fold
    inner: Fold


def _factored(folds: Sequence[Fold]) -> list[Fold]:
    splits = {fold: list(dict.fromkeys(_splits(fold))) for fold in folds}
    splits = _without_contradictions(splits)
    chosen: dict[Fold, _Split | None] = {}
    uses = Counter(part for each in splits.values() for part in _parts(each))
    could = {part: count for part, count in uses.items() if part.inner}
    for _ in range(3):  # what others chose decides what is cheap
        chosen = {fold: _cheapest(fold, each, uses, chosen) for fold, each in splits.items()}
        uses = Counter(split.outer for split in chosen.values() if split)
        uses.update(could)
    uses = Counter(part for split in chosen.values() if split for part in _parts([split]))
    chosen = {fold: _cheapest(fold, each, uses, chosen) for fold, each in splits.items()}
    outer, inner = [], []
    for fold, split in chosen.items():
        outer.append(split.outer if split else fold)
        if split:
            inner.append(split.inner)
    kept = [fold for fold in dict.fromkeys(outer) if fold.source != fold.target]
    return [*kept, *dict.fromkeys(inner)]


def _splits(fold: Fold) -> Iterator[_Split]:
    """A layer has a number, on both sides."""
    for at in range(1, len(fold.source)):
        if not _numbered(fold.source[at - 1]):
            continue
        for to in range(len(fold.target) + 1):
            if to and not _numbered(fold.target[to - 1]):
                continue
            outer = Fold(fold.source[:at], fold.target[:to])
            inner = Fold(fold.source[at:], fold.target[to:], inner=True)
            if outer.stars == sum(part.count("*") for part in outer.target):
                inner = _from_a_word(inner)
                if any(map(_is_word, inner.source)) and inner.source != inner.target:
                    yield _Split(_shortest(outer), inner)


def _numbered(segment: str) -> bool:
    return "*" in segment or any(map(str.isdecimal, segment))


def _is_word(segment: str) -> bool:
    return not segment.replace("*", "").isdecimal() and segment != "*"


def _shortest(fold: Fold) -> Fold:
    """Without what both sides end in alike."""
    ours, theirs = list(fold.source), list(fold.target)
    while len(ours) > 1 and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return Fold(tuple(ours), tuple(theirs), fold.inner)


def _from_a_word(fold: Fold) -> Fold:
    """Without numbers that both sides begin with alike."""
    ours, theirs = fold.source, fold.target
    while ours and theirs and ours[0] == theirs[0] and not _is_word(ours[0]):
        ours, theirs = ours[1:], theirs[1:]
    return Fold(ours, theirs, fold.inner)


def _parts(splits: Iterable[_Split]) -> Iterator[Fold]:
    for split in splits:
        yield split.outer
        yield split.inner


def _without_contradictions(splits: dict[Fold, list[_Split]]) -> dict[Fold, list[_Split]]:
    """One text means one thing: of several readings, what the most lines agree on.

    What layers hold comes first, since it is the same in all of them; a reading counts for as
    much as is held by the layers that it leaves. Where two come out alike (all first blocks have
    a shortcut, so it may be theirs or the stage's), that which divides as the certain ones do.
    """
    each = [split for found in splits.values() for split in found]
    holds = Counter(split.outer for split in each)
    inner = _readings((split.inner, holds[split.outer]) for split in each)
    certain = {readings[0] for readings in inner.values() if len(readings) == 1}
    votes = Counter(split.outer for split in each if split.inner in certain)
    voted: Counter[Fold] = Counter()
    for split in each:
        voted[split.inner] += votes[split.outer]
    meant = {max(r, key=lambda fold: (voted[fold], len(fold.target))) for r in inner.values()}
    outer = _readings((split.outer, 1) for split in each if split.inner in meant)
    meant |= {max(r, key=lambda fold: len(fold.target)) for r in outer.values()}
    return {
        fold: [split for split in found if {split.inner, split.outer} <= meant]
        for fold, found in splits.items()
    }


def _readings(weighed: Iterable[tuple[Fold, int]]) -> dict[Path, list[Fold]]:
    """By source, the targets of the greatest weight."""
    by_source: dict[Path, Counter[Fold]] = defaultdict(Counter)
    for fold, weight in weighed:
        by_source[fold.source][fold] += weight
    most = {source: max(weights.values()) for source, weights in by_source.items()}
    return {
        source: [fold for fold, weight in weights.items() if weight == most[source]]
        for source, weights in by_source.items()
    }


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
