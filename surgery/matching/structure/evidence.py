"""What distinguishes layers of one shape, or modules of one content.

Each rule pairs what it is sure of by itself, and says nothing else; where two rules contradict
each other nothing is paired. So a rule that is left out may leave something open, and can never
pair it differently.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from surgery.matching.structure.hints import Hint, Hints
from surgery.matching.structure.layers import Path, Shape
from surgery.matching.structure.numbers import Anchors, Families, Family, Rows, chain, form
from surgery.matching.structure.words import concepts, is_last_norm

Pairs = dict[Path, Path]
#: By norm with statistics the matrices without a bias of its width right in its module, and the
#: norms like it.
Convolved = Mapping[Path, tuple[Sequence[Path], Sequence[Path]]]


@dataclass(frozen=True, slots=True)
class Members:
    """Layers of one kind, or modules of one content, that are not paired yet.

    ``whole`` says that these were all of the kind there, on both sides: none was paired before.
    ``shape`` is that of a matrix, ``()`` for layers of one value a channel and for modules.
    ``statistics`` says that a norm has them, ``turnable`` that a matrix may as well be another one
    stored (in, out), and ``hinted`` that a person paired some of them.
    """

    ends: tuple[Sequence[Path], Sequence[Path]]
    modules: bool = False
    whole: bool = False
    shape: Shape = ()
    statistics: bool = False
    turnable: bool = False
    hinted: bool = False

    @property
    def only(self) -> Pairs:
        """The one on either side, if there is but one."""
        ours, theirs = self.ends
        return {ours[0]: theirs[0]} if len(ours) == len(theirs) == 1 else {}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known inside one pair of modules.

    ``nested`` says that it is a pair of modules, rather than two whole networks, and ``balanced``
    that both hold the same shapes. ``families`` are the numbered siblings of either side, and
    ``shapes`` counts the shapes of all layers. ``pairs`` are decided layers and modules, and
    ``anchors`` their places in families. ``convolved`` are the matrices and the norms of one width
    beside each norm with statistics, ``registered`` is the order of the target's code, and
    ``runs`` are those in which the modules of both sides run. ``whole_paths`` are the paths from
    the top of the network, of sources and of targets, where there are hints.
    """

    hints: Hints
    nested: bool
    balanced: bool
    families: Sequence[Families]
    shapes: Mapping[Shape, int]
    registered: Mapping[Path, int]
    runs: Sequence[Mapping[Path, int]]
    whole_paths: Sequence[Mapping[Path, Sequence[Path]]]
    pairs: Mapping[Path, Path] = field(default_factory=dict)
    anchors: Anchors = field(default_factory=dict)
    convolved: Sequence[Convolved] = ({}, {})

    def of_another_length(self, family: Family) -> bool:
        """Whether a family of one name has other members on the two sides."""
        ours, theirs = (families.ranks(family).keys() for families in self.families)
        return ours != theirs

    def meant(self, hint: Hint, paths: Iterable[Path], side: int, *, ends: bool) -> list[Path]:
        """The paths here, or whole paths of them, that a hint means: by their end, or anywhere."""
        says = hint.calls if ends else hint.names
        whole = self.whole_paths[side]
        return [p for p in paths if any(says(x, side) for x in (p, *whole.get(p, ())))]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of evidence; ``reason`` is what the evidence of a step says."""

    reason: str
    pairs: Callable[[Members, Known], Pairs]


def paired_by(
    members: Members, known: Known, rules: Sequence[Rule]
) -> dict[Path, tuple[Path, str]]:
    """Pairs among the members, each with its reasons; others are left out."""
    if hinted := _by_hints(members, known):
        return hinted
    found: dict[Path, dict[Path, list[str]]] = defaultdict(lambda: defaultdict(list))
    for rule in rules:
        for source, target in rule.pairs(members, known).items():
            found[source][target].append(rule.reason)
    taken = [target for there in found.values() for target in there]
    if len(taken) > len(found) or len({*taken}) < len(taken):
        return {}
    return {
        source: (target, ", ".join(reasons))
        for source, there in found.items()
        for target, reasons in there.items()
    }


def _by_hints(members: Members, known: Known) -> dict[Path, tuple[Path, str]]:
    found: dict[Path, tuple[Path, str]] = {}
    for hint in known.hints:
        ends = [known.meant(hint, members.ends[side], side, ends=False) for side in (0, 1)]
        if len(ends[0]) == len(ends[1]) == 1 and ends[1][0] not in {t for t, _ in found.values()}:
            known.hints.use(hint)
            found.setdefault(ends[0][0], (ends[1][0], f"{BY_HINT} {hint}"))
    return found


def _same_path(members: Members, known: Known) -> Pairs:
    """All names of one side are among those of the other, and their numbers count as many."""
    ours, theirs = map(set, members.ends)
    if not (ours <= theirs or theirs <= ours):
        return {}
    one_row = cache(partial(_one_row, known=known))
    return {
        path: path
        for path in members.ends[0]
        if path in theirs and all(one_row(family) for family, _ in known.families[0].places(path))
    }


def _one_row(family: Family, known: Known) -> bool:
    """Whether numbers under one name, or in modules that run one behind the other, are as many on
    both sides.
    """
    ours, theirs = known.families
    alike = ours.word(family) == theirs.word(family)
    runs = ours.runs(family) and theirs.runs(family)
    return (alike or runs) and not known.of_another_length(family)


def _numbered(members: Members, known: Known) -> Pairs:
    """Both sides say by name which comes first."""
    ours, theirs = map(chain, members.ends)
    if not ours or not theirs or not 1 < len(ours) == len(theirs):
        return {}
    forms = form(ours), form(theirs)
    # Modules in one row may be those of several stages.
    if forms[0] != forms[1] and not (members.modules and not all(map(any, forms))):
        return {}
    rows = Rows((ours, theirs), known.families, known.anchors)
    if rows.contradicted() or not _counts_what_runs(members, rows, known):
        return {}
    return dict(zip(ours, theirs, strict=True))


def _counts_what_runs(members: Members, rows: Rows, known: Known) -> bool:
    """Whether the members run one behind the other, as far as it can be known.

    In a block two matrices of one shape do where each has a norm of its own, or another one that
    leads back; without, they are side by side: gates, or branches.
    """
    if members.modules:
        return rows.directed()
    if not rows.counted_alike(bool(members.shape)):
        return False
    if not all(families.in_block for families in known.families):
        return rows.directed()
    if not members.shape:
        return True
    outputs, inputs, count = *members.shape[:2], len(members.ends[0])
    leads_back = outputs != inputs and known.shapes[inputs, outputs] == count
    return known.shapes[outputs,] >= count or (len(members.shape) == 2 and leads_back)


def _meaning(members: Members, known: Known) -> Pairs:
    """The words of one member, all of them or those that tell it from the others of its side, are
    said by one on either side.
    """
    found: dict[Path, set[Path]] = defaultdict(set)
    for telling in (False, True):
        said: dict[frozenset[str], tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
        for side, paths in enumerate(members.ends):
            spoken = {path: _spoken(path, members, known) for path in paths}
            common = frozenset.intersection(*spoken.values()) if telling and paths[1:] else {}
            for path, words in spoken.items():
                said[words.difference(common)][side].append(path)
        for words, (ours, theirs) in said.items():
            if words and len(ours) == len(theirs) == 1:
                found[ours[0]].add(theirs[0])
    return {source: target for source, (target, *more) in found.items() if not more}


def _spoken(path: Path, members: Members, known: Known) -> frozenset[str]:
    words = frozenset().union(*map(concepts, path))
    own = concepts(next((segment for segment in reversed(path) if not segment.isdigit()), ""))
    if not known.nested and "out" in own:
        words, own = words - {"out"} | {"head"}, own | {"head"}
    if "head" in own:
        return words - {"class", "embed"}
    # What stands in a head is not the head; what norms stand before or behind is known by order.
    places = {"head"} if members.shape or members.modules else {"head", "attention", "mlp"}
    return words - places


def _alone(members: Members, known: Known) -> Pairs:
    """The only layers with these shapes, or modules with this content: in a pair of modules, or
    in two whole networks.

    What is left of a shape when others were paired is evidence inside a pair of modules that hold
    the same, and where a person paired the others. Between whole networks it is none.
    """
    for source, target in members.only.items() if not members.turnable else ():
        of_module = known.nested and known.balanced and not members.modules
        if of_module or members.hinted:
            return members.only
        if (members.modules or members.whole) and not _shifted(source, target, known):
            return members.only
    return {}


def _shifted(source: Path, target: Path, known: Known) -> bool:
    """Whether two stand at other places in rows of one name and another length."""
    ours, theirs = (
        side.places(x) for side, x in zip(known.families, (source, target), strict=True)
    )
    return len(ours) == len(theirs) and any(
        one == other and rank != other_rank and known.of_another_length(one)
        for (one, rank), (other, other_rank) in zip(ours, theirs, strict=True)
    )


def _last_norm(members: Members, known: Known) -> Pairs:
    """Of norms outside of all blocks one on either side is that of what the network puts out."""
    if known.nested or members.shape or members.modules:
        return {}
    ours, theirs = (
        [path for path in side if is_last_norm(families.inner(path))]
        for side, families in zip(members.ends, known.families, strict=True)
    )
    return replace(members, ends=(ours, theirs)).only


def _of_its_matrix(members: Members, known: Known) -> Pairs:
    """Norms with statistics are paired as the matrices that they follow are."""
    if not members.statistics:
        return {}
    ours, theirs = (
        {owner: norm for norm in side if (owner := _owner(norm, at, known))}
        for at, side in enumerate(members.ends)
    )
    images = {known.pairs[owner]: source for owner, source in ours.items() if owner in known.pairs}
    return {source: theirs[image] for image, source in images.items() if image in theirs}


def _owner(norm: Path, side: int, known: Known) -> Path | None:
    """The matrix that a norm follows: the only one in its module, or, where there are as many of
    both, the one at its place, by the names of the source's norms, and as the target's code
    registers its layers.
    """
    matrices, norms = known.convolved[side].get(norm, ((), ()))
    if len(norms) < 2:
        return matrices[0] if norms else None
    images = {path: path if side else known.pairs.get(path, ()) for path in matrices}
    if not known.registered.keys() >= {*images.values(), *(norms if side else ())}:
        return None
    ordered = sorted(norms, key=known.registered.__getitem__) if side else chain(norms)
    matrices = sorted(matrices, key=lambda path: known.registered[images[path]])
    return matrices[ordered.index(norm)] if ordered else None


def _between_decided(members: Members, known: Known) -> Pairs:
    """Each runs between the same decided layers and modules on both sides, in a gap of its own.

    Order alone proves nothing: a shortcut may run before or behind what it goes around.
    """
    ours, theirs = known.runs
    if not (ours.keys() >= {*members.ends[0]} and theirs.keys() >= {*members.ends[1]}):
        return {}
    decided = [(ours[s], theirs[t]) for s, t in known.pairs.items() if s in ours and t in theirs]
    decided.sort()
    gaps = []
    for side, paths in enumerate(members.ends):
        ends = [pair[side] for pair in decided]
        gaps.append({bisect(ends, known.runs[side][path]): path for path in paths})
        if ends != sorted(ends) or len(gaps[side]) < len(paths):
            return {}
    return {gaps[0][at]: gaps[1][at] for at in gaps[0]} if gaps[0].keys() == gaps[1].keys() else {}


#: How a reason begins that a person gave.
BY_HINT = "hint"
#: All evidence but what a person says.
RULES = (
    Rule("the same name in a pair of modules", _same_path),
    Rule("order by name", _numbered),
    Rule("words of one meaning", _meaning),
    Rule("the only pair of these shapes", _alone),
    Rule("the last norm by both names", _last_norm),
    Rule("the norm of a matrix that is paired", _of_its_matrix),
    Rule("between the same decided layers as they run", _between_decided),
)
