"""What tells layers of one shape apart, inside a pair of modules.

Each kind of evidence gives pairs or nothing. Pairs are taken where the kinds that speak agree;
where they contradict each other nothing is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.matching.structure.hints import Hint, Hints
from surgery.matching.structure.layers import Path
from surgery.matching.structure.ordering import before, chain, natural
from surgery.matching.structure.sequence import Anchors
from surgery.matching.structure.tree import inside
from surgery.matching.structure.words import concepts, tokens

Pairs = dict[Path, Path]


@dataclass(frozen=True)
class Known:
    """What is known inside one pair of modules.

    ``pairs`` are decided; ``inside`` lists the sources among them by each module above them, and
    ``matrices`` are those that have inputs and outputs. ``learned`` are pairs that the same names
    have elsewhere. ``order`` is the place of each target among the layers as they were
    registered, empty where no code gave it; ``run`` that in which they run. ``anchors`` has both
    orders of both sides, where they are known. ``whole`` are the paths from the top of the
    network, of sources and of targets, where there are hints.
    """

    hints: Hints
    pairs: Mapping[Path, Path] = field(default_factory=dict)
    inside: Mapping[Path, Sequence[Path]] = field(default_factory=dict)
    learned: Mapping[Path, Path] = field(default_factory=dict)
    matrices: frozenset[Path] = frozenset()
    order: Mapping[Path, int] = field(default_factory=dict)
    run: Mapping[Path, int] = field(default_factory=dict)
    anchors: Anchors | None = None
    whole: tuple[Mapping[Path, Sequence[Path]], ...] = ({}, {})

    def names(self, hint: Hint, path: Path, side: int) -> bool:
        """Whether a hint means what stands at a path here, or at any whole path of that."""
        paths = (path, *self.whole[side].get(path, ()))
        return any((hint.names_target if side else hint.names_source)(each) for each in paths)


def settle(
    sources: Sequence[Path], targets: Sequence[Path], known: Known
) -> dict[Path, tuple[Path, str]]:
    """Pairs among layers (or modules) of one kind, each with its reason; others are left out."""
    if hinted := _by_hints(sources, targets, known):
        return hinted
    found = [(pairs, why) for rule, why in _RULES if (pairs := rule(sources, targets, known))]
    if any(_inverts(pairs, known) for pairs, _ in found):
        return {}
    agreed: dict[Path, tuple[Path, str]] = {}
    contested: set[Path] = set()
    for pairs, why in found:
        for source, target in pairs.items():
            other, reason = agreed.get(source, (target, ""))
            if other != target:
                contested |= {source, target, other}
            agreed[source] = (target, ", ".join(filter(None, (reason, why))))
    by_target: dict[Path, set[Path]] = defaultdict(set)
    for source, (target, _) in agreed.items():
        by_target[target].add(source)
    if contested or any(len(names) > 1 for names in by_target.values()):
        return {}
    placed = _between_decided(sources, targets, known)
    if any(placed.get(source, target) != target for source, (target, _) in agreed.items()):
        return {}
    if len(sources) != len(targets):
        return {} if _same_row(sources, targets, agreed) else agreed
    if agreed:
        return agreed
    for rule, why in _LAST_RULES:
        pairs = rule(sources, targets, known)
        if pairs and not _inverts(pairs, known):
            return {source: (target, why) for source, target in pairs.items()}
    return {}


def _same_row(
    sources: Sequence[Path], targets: Sequence[Path], agreed: Mapping[Path, tuple[Path, str]]
) -> bool:
    """Whether what would be left over stands in one numbered row with what was paired: rows of
    different length are two networks of different depth.
    """
    used = {target for target, _ in agreed.values()}
    for paths, paired in ((sources, agreed.keys()), (targets, used)):
        for path in paths:
            if path not in paired and any(before(path, other) is not None for other in paired):
                return True
    return False


def _by_hints(
    sources: Sequence[Path], targets: Sequence[Path], known: Known
) -> dict[Path, tuple[Path, str]]:
    found: dict[Path, tuple[Path, str]] = {}
    for hint in known.hints:
        ours = [path for path in sources if known.names(hint, path, 0)]
        theirs = [path for path in targets if known.names(hint, path, 1)]
        if len(ours) == len(theirs) == 1 and theirs[0] not in {t for t, _ in found.values()}:
            known.hints.use(hint)
            found.setdefault(ours[0], (theirs[0], f"{BY_HINT} {hint}"))
    return found


def _same_path(sources: Sequence[Path], targets: Sequence[Path], _: Known) -> Pairs:
    theirs = set(targets)
    doubtful = _two_heads(sources) != _two_heads(targets)
    return {
        path: path
        for path in sources
        if path in theirs and not (doubtful and path and "head" in concepts(path[-1]))
    }


def _learned(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    theirs = set(targets)
    found = {path: known.learned[path] for path in sources if path in known.learned}
    return {source: target for source, target in found.items() if target in theirs}


def _numbered(sources: Sequence[Path], targets: Sequence[Path], _: Known) -> Pairs:
    """Both sides say by name which comes first."""
    if len(sources) != len(targets):
        return {}
    ours, theirs = chain(sources), chain(targets)
    if not ours or not theirs:
        return {}
    return dict(zip(ours, theirs, strict=True))


def _inverts(pairs: Mapping[Path, Path], known: Known) -> bool:
    """Whether siblings that are decided stand in another order on either side."""
    for other, partner in pairs.items():
        for source in _around(other, known):
            one, two = before(source, other), before(known.pairs[source], partner)
            if one is not None and two is not None and one != two:
                return True
    return False


#: In a module with more decided layers than this they are not all compared with each other.
_MANY = 400


def _around(source: Path, known: Known) -> Sequence[Path]:
    """The decided sources of the largest module around one that does not hold too many."""
    above = (known.inside.get(source[:depth], ()) for depth in range(len(source)))
    return next((found for found in above if len(found) <= _MANY), ())


def _meaning(sources: Sequence[Path], targets: Sequence[Path], _: Known) -> Pairs:
    """Words that one member of each side has and no other: ``shortcut`` against ``downsample``."""
    telling = _telling([*sources, *targets])
    if _two_heads(sources) or _two_heads(targets):
        telling = {path: words - {"head"} for path, words in telling.items()}
    speakers: dict[str, list[Path]] = defaultdict(list)
    for target in targets:
        for word in telling[target]:
            speakers[word].append(target)
    pairs: Pairs = {}
    for source in sources:
        found = {target for word in telling[source] for target in speakers.get(word, ())}
        if len(found) > 1:
            return {}
        for target in found:
            pairs[source] = target
    return pairs if len({*pairs.values()}) == len(pairs) else {}


def _telling(paths: Sequence[Path]) -> dict[Path, frozenset[str]]:
    """The concepts of each path that not all of the paths have."""
    spoken = {path: frozenset().union(*map(concepts, path)) for path in paths}
    common = frozenset.intersection(*spoken.values()) if spoken else frozenset()
    return {path: found - common for path, found in spoken.items()}


#: Words for what a network puts out, beside those that make a head.
_OUTPUTS = frozenset({"out", "output", "outputs", "last", "final", "logits", "prediction", "pred"})


def _two_heads(paths: Sequence[Path]) -> bool:
    """Whether a layer may be the head by its word, and one beside it by another: ``fc`` is the
    head of many networks, and of those with an ``out`` it is a layer before it.
    """
    heads = {path[:-1] for path in paths if path and "head" in concepts(path[-1])}
    return any(
        path[:-1] in heads and not _OUTPUTS.isdisjoint(tokens(path[-1]))
        for path in paths
        if path and "head" not in concepts(path[-1])
    )


def _beside(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    """A source that shares its module with one decided layer goes where that layer's partner
    has its neighbour, in the order in which the target registered them.

    ``{convolution, normalization}`` against ``conv1, bn1, conv2, bn2``: taken only where every
    target of the kind has its own neighbour and no other choice is left.
    """
    partners = {source: _companion(source, sources, known) for source in sources}
    places = {known.order.get(target): target for target in targets}
    near = {
        source: {
            places[at]
            for at in (known.order[known.pairs[partner]] + step for step in (-1, 1))
            if at in places
        }
        for source, partner in partners.items()
        if partner and known.pairs[partner] in known.order
    }
    return _only_choice(near) if len(near) == len(sources) == len(targets) else {}


def _companion(member: Path, members: Sequence[Path], known: Known) -> Path | None:
    for depth in range(len(member) - 1, 0, -1):
        if found := known.inside.get(member[:depth]):
            alone = sum(inside(other, member[:depth]) for other in members) == 1
            return found[0] if len(found) == 1 and alone else None
    return None


def _only_choice(choices: Mapping[Path, set[Path]]) -> Pairs:
    """The one way to give each its own, found by taking who has no choice; empty where there is
    none, or more than one.
    """
    left = {one: set(found) for one, found in choices.items()}
    pairs: Pairs = {}
    while left:
        forced = next((one for one, found in left.items() if len(found) == 1), None)
        if forced is None:
            return {}
        (pairs[forced],) = left.pop(forced)
        for found in left.values():
            found.discard(pairs[forced])
    return pairs


def _registered(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    """Sources that their names order, targets in the order of their registration: only beside
    decided layers of the same row that have this order too, and where it runs so as well.
    """
    if not all(target in known.order for target in targets):
        return {}
    row = [s for s, t in known.pairs.items() if t in known.order and chain([s, *sources])]
    ours = chain([*sources, *row])
    if not ours or not row:
        return {}
    pairs = dict(zip(
        (path for path in ours if path not in known.pairs),
        sorted(targets, key=known.order.__getitem__),
        strict=True,
    ))  # fmt: skip
    theirs = [known.pairs.get(path) or pairs[path] for path in ours]
    runs = [known.run[target] for target in theirs if target in known.run]
    places = [known.order[target] for target in theirs]
    return pairs if places == sorted(places) and runs == sorted(runs) else {}


def _between_decided(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    """Each stands between the same decided layers on both sides, as registered and as they run."""
    return known.anchors.pair(sources, targets) if known.anchors else {}


def _enclosed(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    """A module's layers are neighbours where all are numbered in one row: of two norms, the one
    that lies between others of a module, on the other side, belongs into that module.

    Only where this gives each matrix of the module one norm: a module that lacks one, because
    its name is strange, would take its neighbour's.
    """
    if len(sources) != 2 or len(targets) != 2:
        return {}
    back = {target: source for source, target in known.pairs.items()}
    heavy = frozenset(known.pairs[source] for source in known.matrices)
    forwards = _between(targets, sources, back, heavy)
    if forwards:
        return {source: target for target, source in forwards.items()}
    return _between(sources, targets, known.pairs, known.matrices)


def _between(
    nested: Sequence[Path], row: Sequence[Path], image: Mapping[Path, Path], heavy: frozenset[Path]
) -> Pairs:
    for member in sorted(nested, key=natural):
        for depth in range(len(member) - 1, 0, -1):
            beside = [path for path in image if inside(path, member[:depth])]
            if len(beside) < 2:
                continue
            alone = sum(inside(path, member[:depth]) for path in nested) == 1
            balanced = len(beside) + 1 == 2 * sum(path in heavy for path in beside)
            found = _spanned([image[path] for path in beside], row) if alone and balanced else []
            if len(found) == 1:
                return {member: found[0]}
            break
    return {}


def _spanned(anchors: Sequence[Path], row: Sequence[Path]) -> list[Path]:
    ordered = chain([*anchors, *row])
    if not ordered:
        return []
    places = [ordered.index(anchor) for anchor in anchors]
    return [path for path in row if min(places) < ordered.index(path) < max(places)]


Rule = Callable[[Sequence[Path], Sequence[Path], Known], Pairs]
#: How a reason begins that a person gave.
BY_HINT = "hint"
#: What the reason says where it goes by the order in which code registers layers.
AS_REGISTERED = "as registered"
#: What it says where it goes by numbers, or by words of order, and by nothing else.
BY_NUMBER = "order by name"
_RULES: tuple[tuple[Rule, str], ...] = (
    (_same_path, "the same name in a pair of modules"),
    (_learned, "the same names as in other blocks"),
    (_numbered, BY_NUMBER),
    (_meaning, "words of one meaning"),
)
_LAST_RULES: tuple[tuple[Rule, str], ...] = (
    (_enclosed, "between layers of its module"),
    (_beside, f"beside a decided layer in its module, and next to it {AS_REGISTERED}"),
    (_registered, f"order by name, and {AS_REGISTERED} beside decided layers"),
    (_between_decided, f"between the same decided layers, {AS_REGISTERED} and as they run"),
)
