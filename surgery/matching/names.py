"""Source names to target names: wrappers, spellings, prefixes.

Names agree as they are, below wrappers (``module.``, ``_orig_mod.``, ...) on either side, or in
another spelling of the same tensor (weight normalisation, old and new). Where they do not, one
side may nest what the other has at the top: each prefix that could be added or dropped is a
hypothesis about the whole network, and competes with the names as they are. A match is
one-to-one or it is not made, and what was ambiguous is said. No values are looked at.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.matching.matches import Match, Matches, OpenGroup
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names


def match_names(sources: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]) -> Matches:
    """Bring source names and target names together.

    ``sources`` and ``targets`` map names (after the mapping's lines) to specs; shapes are evidence
    for prefixes only, since a tensor of another shape is still the tensor of that name.
    """
    sides = _Sides(sources, targets)
    as_they_are = _as_they_are(sides)
    accepted, rejected = _compete(sides, as_they_are, _prefixes(sides))
    by_target = {match.target: match for guess in accepted for match in guess.matches}
    ambiguous_sources: dict[str, str] = {}
    undecided: dict[str, list[Match]] = {}
    for guess, why in rejected:
        for match in guess.matches:
            if match.target not in by_target:
                undecided.setdefault(why, []).append(match)
            ambiguous_sources[match.source] = why
    for match in by_target.values():
        ambiguous_sources.pop(match.source, None)
    groups = (
        OpenGroup(
            tuple(dict.fromkeys(match.target for match in matches)),
            tuple(dict.fromkeys(match.source for match in matches)),
            why,
        )
        for why, matches in undecided.items()
    )
    return Matches(by_target, tuple(groups), ambiguous_sources)


class _Sides:
    """Both sides under their own and under their unwrapped names."""

    def __init__(
        self, sources: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
    ) -> None:
        self.sources, self.targets = sources, targets
        self.source_by_clean = {clean: raw for raw, clean in unwrap_names(sources).items()}
        self.target_by_clean = {clean: raw for raw, clean in unwrap_names(targets).items()}


@dataclass(frozen=True, slots=True)
class _Guess:
    """One way to read all names: as they are, or with a prefix added or dropped.

    ``votes`` counts the matches whose shapes agree as well.
    """

    matches: tuple[Match, ...]
    votes: int
    where: str

    def contests(self, other: _Guess) -> bool:
        """Whether both want the same target, or the same source."""
        return bool(
            {match.target for match in self.matches} & {match.target for match in other.matches}
            or {match.source for match in self.matches} & {match.source for match in other.matches}
        )


def _guess(sides: _Sides, matches: Iterable[Match], where: str) -> _Guess:
    matches = tuple(matches)
    votes = sum(
        sides.sources[match.source].shape == sides.targets[match.target].shape for match in matches
    )
    return _Guess(matches, votes, where)


def _as_they_are(sides: _Sides) -> _Guess:
    matches = {match.target: match for match in _same(sides)}
    used = {match.source for match in matches.values()}
    left = _Sides(
        {name: spec for name, spec in sides.sources.items() if name not in used},
        {name: spec for name, spec in sides.targets.items() if name not in matches},
    )
    matches |= {match.target: match for match in _respelled(left)}
    return _guess(sides, matches.values(), "under its own name")


def _same(sides: _Sides) -> Iterator[Match]:
    # Names that agree to the letter come first: a network that really has a submodule called
    # `module` must not be looked through.
    exact = sides.sources.keys() & sides.targets.keys()
    yield from (Match(name, name) for name in sides.targets if name in exact)
    for clean, target in sides.target_by_clean.items():
        source = sides.source_by_clean.get(clean)
        if source is not None and source not in exact and target not in exact:
            yield Match(target, source, "wrapper")


#: Old spelling -> new spelling of one tensor, by the last segments of its name.
#: torch.nn.utils.weight_norm and spectral_norm against their torch.nn.utils.parametrizations
#: successors, as in the compatibility hooks of torch/nn/utils/parametrizations.py.
_WEIGHT_NORM = {
    "{tensor}_g": "parametrizations.{tensor}.original0",
    "{tensor}_v": "parametrizations.{tensor}.original1",
}
_SPECTRAL_NORM = {
    "{tensor}_orig": "parametrizations.{tensor}.original",
    "{tensor}_u": "parametrizations.{tensor}.0._u",
    "{tensor}_v": "parametrizations.{tensor}.0._v",
}
_PARAMETRIZED = re.compile(r"(?:^|\.)parametrizations\.([^.]+)\.(?:original[01]?|0\._[uv])$")


def _respelled(sides: _Sides) -> Iterator[Match]:
    """Both directions of the spellings above, a whole family of names at a time."""
    pairs = (
        (sides.source_by_clean, sides.target_by_clean, False),
        (sides.target_by_clean, sides.source_by_clean, True),
    )
    for old_side, new_side, flipped in pairs:
        for path, tensor in _parametrized(new_side):
            for spelling in (_WEIGHT_NORM, _SPECTRAL_NORM):
                names = {
                    path + old.format(tensor=tensor): path + new.format(tensor=tensor)
                    for old, new in spelling.items()
                }
                if old_side.keys() >= names.keys() and new_side.keys() >= set(names.values()):
                    for old, new in names.items():
                        ends = (old_side[old], new_side[new])
                        source, target = reversed(ends) if flipped else ends
                        yield Match(target, source, "parametrization spelling")


def _parametrized(names: Iterable[str]) -> list[tuple[str, str]]:
    """(path with its dot, tensor) of every parametrized tensor among ``names``, once each."""
    found: dict[tuple[str, str], None] = {}
    for name in names:
        if match := _PARAMETRIZED.search(name):
            path = name[: match.start()]
            found[(f"{path}." if path else "", match[1])] = None
    return list(found)


def _prefixes(sides: _Sides) -> list[_Guess]:
    """A guess for every prefix that one side may have and the other not, if it is credible.

    It is where it explains half of the smaller side, and something in the same shape: names that
    share an ending (`fc.weight` and some `se.fc.weight`) are no reason to think of nesting.
    """
    families: dict[str, list[Match]] = defaultdict(list)
    for match in (*_added(sides), *_dropped(sides)):
        families[match.via].append(match)
    enough = min(len(sides.sources), len(sides.targets)) / 2
    guesses = [
        _guess(sides, matches, _where(via))
        for via, matches in sorted(families.items())
        if len(matches) >= enough
    ]
    return [guess for guess in guesses if guess.votes]


def _where(via: str) -> str:
    _, prefix, done = via.split(" ")
    return f"into {prefix}" if done == "added" else f"below {prefix}"


def _added(sides: _Sides) -> Iterator[Match]:
    """The target nests what the source has at the top. Longest suffix wins, because detection
    models nest the backbone below more than one name.
    """
    tops = _tops(sides.source_by_clean)
    for clean, target in sides.target_by_clean.items():
        for prefix, suffix in _splits(clean, tops):
            if suffix in sides.source_by_clean:
                yield Match(target, sides.source_by_clean[suffix], f"prefix {prefix}. added")
                break


def _dropped(sides: _Sides) -> Iterator[Match]:
    """The source nests what the target has at the top, as Lightning's `model.` does."""
    tops = _tops(sides.target_by_clean)
    for clean, source in sides.source_by_clean.items():
        for prefix, suffix in _splits(clean, tops):
            if suffix in sides.target_by_clean:
                yield Match(sides.target_by_clean[suffix], source, f"prefix {prefix}. dropped")
                break


#: Segments of the longest prefix that is thought of: a name may have thousands.
_LONGEST_PREFIX = 32


def _tops(names: Iterable[str]) -> frozenset[str]:
    """First segments: what stands below a prefix begins with one of them."""
    return frozenset(name.partition(".")[0] for name in names)


def _splits(name: str, tops: frozenset[str]) -> Iterable[tuple[str, str]]:
    """(prefix, suffix) at every dot before one of ``tops``, the longest suffix first."""
    segments = name.split(".")
    below = segments[1 : _LONGEST_PREFIX + 1]
    if tops.isdisjoint(below):
        return ()
    return [
        (".".join(segments[:at]), ".".join(segments[at:]))
        for at, segment in enumerate(below, start=1)
        if segment in tops
    ]


def _compete(
    sides: _Sides, as_they_are: _Guess, prefixes: Sequence[_Guess]
) -> tuple[list[_Guess], list[tuple[_Guess, str]]]:
    """The guesses that hold, and those that do not with the reason.

    Guesses that want no tensor in common hold side by side. Names as they are beat a prefix that
    explains no more than they do. Any other two that want the same tensor (a student and a
    teacher, weights and their average, two towers of one width) look the same by their names,
    and neither holds: half of one network and half of another would be worse than nothing.
    """
    rivals = [g for g in prefixes if not (g.contests(as_they_are) and g.votes <= as_they_are.votes)]
    beaten = [g for g in prefixes if g not in rivals]
    accepted, rejected = [], []
    for guess in (as_they_are, *rivals):
        others = [g for g in (as_they_are, *rivals) if g is not guess and g.contests(guess)]
        if others:
            rejected.append((guess, _fits(guess, *others)))
        else:
            accepted.append(guess)
    return accepted, rejected + [(guess, "a tensor of the very name is there") for guess in beaten]


def _fits(*guesses: _Guess) -> str:
    """The reason in words that do not depend on the order of anything, nor on single names."""
    return f"ambiguous: fits {' and '.join(sorted(guess.where for guess in guesses))}"
