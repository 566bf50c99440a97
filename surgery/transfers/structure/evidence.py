"""What tells layers of one shape apart, inside a pair of modules.

Each kind of evidence gives pairs or nothing. Pairs are taken where the kinds that speak agree;
where they contradict each other nothing is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.transfers.structure.hints import Hints
from surgery.transfers.structure.layers import Path
from surgery.transfers.structure.ordering import before, chain, natural
from surgery.transfers.structure.tree import inside
from surgery.transfers.structure.words import concepts

Pairs = dict[Path, Path]


@dataclass(frozen=True)
class Known:
    """What is known inside one pair of modules.

    ``pairs`` are decided, ``learned`` are pairs that the same names have elsewhere, ``order``
    is the place of each target in the order in which its modules were registered, empty where
    no code gave it; ``run`` is the place of each target in the order in which they run.
    """

    hints: Hints
    pairs: Mapping[Path, Path] = field(default_factory=dict)
    learned: Mapping[Path, Path] = field(default_factory=dict)
    order: Mapping[Path, int] = field(default_factory=dict)
    run: Mapping[Path, int] = field(default_factory=dict)


def settle(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> dict[Path, tuple[Path, str]]:
    """Pairs among layers (or modules) of one kind, each with its reason; what is open is left out."""
    if hinted := _by_hints(sources, targets, known):
        return hinted
    found = [(pairs, why) for rule, why in _RULES if (pairs := rule(sources, targets, known))]
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
    if agreed or len(sources) != len(targets):
        return agreed
    for rule, why in _LAST_RULES:
        if pairs := rule(sources, targets, known):
            return {source: (target, why) for source, target in pairs.items()}
    return {}


def _by_hints(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> dict[Path, tuple[Path, str]]:
    for hint in known.hints:
        ours = [path for path in sources if hint.names_source(path)]
        theirs = [path for path in targets if hint.names_target(path)]
        if len(ours) == len(theirs) == 1:
            known.hints.use(hint)
            return {ours[0]: (theirs[0], f"hint {hint}")}
    return {}


def _same_path(sources: Sequence[Path], targets: Sequence[Path], _: Known) -> Pairs:
    theirs = set(targets)
    return {path: path for path in sources if path in theirs}


def _learned(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    theirs = set(targets)
    found = {path: known.learned[path] for path in sources if path in known.learned}
    return {source: target for source, target in found.items() if target in theirs}


def _numbered(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    """Both sides say by name which comes first, and nothing that is decided speaks against it."""
    if len(sources) != len(targets):
        return {}
    ours, theirs = chain(sources), chain(targets)
    if not ours or not theirs:
        return {}
    pairs = dict(zip(ours, theirs, strict=True))
    return {} if _inverts(pairs, known.pairs) else pairs


def _inverts(pairs: Mapping[Path, Path], decided: Mapping[Path, Path]) -> bool:
    """Whether siblings that are decided stand in another order on either side."""
    for source, target in decided.items():
        for other, partner in pairs.items():
            one, two = before(source, other), before(target, partner)
            if one is not None and two is not None and one != two:
                return True
    return False


def _meaning(sources: Sequence[Path], targets: Sequence[Path], _: Known) -> Pairs:
    """Words that one member of each side has and no other: ``shortcut`` against ``downsample``."""
    ours, theirs = _telling(sources), _telling(targets)
    shared = {
        source: [target for target in targets if ours[source] & theirs[target]]
        for source in sources
    }
    pairs = {source: found[0] for source, found in shared.items() if len(found) == 1}
    clear = len(set(pairs.values())) == len(pairs) and all(len(f) < 2 for f in shared.values())
    return pairs if clear else {}


def _telling(paths: Sequence[Path]) -> dict[Path, frozenset[str]]:
    """The concepts of each path that not all of the paths have."""
    spoken = {path: frozenset().union(*map(concepts, path)) for path in paths}
    common = frozenset.intersection(*spoken.values()) if spoken else frozenset()
    return {path: found - common for path, found in spoken.items()}


def _enclosed(sources: Sequence[Path], targets: Sequence[Path], known: Known) -> Pairs:
    """A module's layers are neighbours where all are numbered in one row: what lies between
    two layers of a module, on the other side, belongs into that module.
    """
    forwards = _between(targets, sources, {t: s for s, t in known.pairs.items()})
    if forwards:
        return {source: target for target, source in forwards.items()}
    return _between(sources, targets, known.pairs)


def _between(nested: Sequence[Path], row: Sequence[Path], image: Mapping[Path, Path]) -> Pairs:
    for member in sorted(nested, key=natural):
        for depth in range(len(member) - 1, 0, -1):
            node = member[:depth]
            anchors = [image[path] for path in image if inside(path, node)]
            members = [path for path in nested if inside(path, node)]
            if len(anchors) >= 2 and len(members) == 1 and len(members) < len(nested):
                found = _spanned(anchors, row)
                if len(found) == 1:
                    return {member: found[0]}
    return {}


def _spanned(anchors: Sequence[Path], row: Sequence[Path]) -> list[Path]:
    ordered = chain([*anchors, *row])
    if not ordered:
        return []
    places = [ordered.index(anchor) for anchor in anchors]
    return [path for path in row if min(places) < ordered.index(path) < max(places)]


Rule = Callable[[Sequence[Path], Sequence[Path], Known], Pairs]
_RULES: tuple[tuple[Rule, str], ...] = (
    (_same_path, "the same name in a pair of modules"),
    (_learned, "the same names as in other blocks"),
    (_numbered, "order by name"),
    (_meaning, "words of one meaning"),
)
_LAST_RULES: tuple[tuple[Rule, str], ...] = (
    (_enclosed, "between layers of its module"),
)
