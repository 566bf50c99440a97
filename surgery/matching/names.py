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
    judged = _judged(sides.guess(_as_they_are(sides), "under its own name"), _prefixes(sides))
    by_target = {match.target: match for guess, why in judged if not why for match in guess.matches}
    used = {match.source for match in by_target.values()}
    ambiguous_sources: dict[str, str] = {}
    undecided: dict[str, list[Match]] = {}
    for guess, why in judged:
        for match in guess.matches if why else ():
            if match.target not in by_target:
                undecided.setdefault(why, []).append(match)
            if match.source not in used:
                ambiguous_sources[match.source] = why
    groups = (
        OpenGroup(
            tuple(dict.fromkeys(match.target for match in matches)),
            tuple(dict.fromkeys(match.source for match in matches)),
            why,
        )
        for why, matches in undecided.items()
    )
    return Matches(by_target, tuple(groups), ambiguous_sources)


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


class _Sides:
    """Both sides, their names by those below wrappers."""

    def __init__(
        self, sources: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
    ) -> None:
        self._sources, self._targets = sources, targets
        self.sources = {clean: raw for raw, clean in unwrap_names(sources).items()}
        self.targets = {clean: raw for raw, clean in unwrap_names(targets).items()}

    def guess(self, matches: Iterable[Match], where: str) -> _Guess:
        matches = tuple(matches)
        votes = sum(self._sources[m.source].shape == self._targets[m.target].shape for m in matches)
        return _Guess(matches, votes, where)


def _as_they_are(sides: _Sides) -> list[Match]:
    # Names that agree to the letter come first: a network that really has a submodule called
    # `module` must not be looked through.
    exact = {*sides.sources.values()} & {*sides.targets.values()}
    found = [Match(name, name) for name in sides.targets.values() if name in exact]
    for clean, target in sides.targets.items():
        source = sides.sources.get(clean)
        if source is not None and source not in exact and target not in exact:
            found.append(Match(target, source, "wrapper"))
    used = {match.source for match in found}, {match.target for match in found}
    respelled = [
        *_respelled(sides.sources, sides.targets),
        *((source, target) for target, source in _respelled(sides.targets, sides.sources)),
    ]
    return found + [
        Match(target, source, "parametrization spelling")
        for source, target in respelled
        if source not in used[0] and target not in used[1]
    ]


#: Old endings -> what stands in the new spelling of one tensor behind ``parametrizations.weight.``.
#: torch.nn.utils.weight_norm and spectral_norm against their torch.nn.utils.parametrizations
#: successors, as in the compatibility hooks of torch/nn/utils/parametrizations.py.
_SPELLINGS = (
    {"_g": "original0", "_v": "original1"},
    {"_orig": "original", "_u": "0._u", "_v": "0._v"},
)
_PARAMETRIZED = re.compile(r"^(.*\.|)parametrizations\.([^.]+)\.(?:original[01]?|0\._[uv])$")


def _respelled(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names of one side in the old spelling and of the other in the new, whole families alone."""
    parametrized = (match for name in new if (match := _PARAMETRIZED.search(name)))
    for before, tensor in dict.fromkeys(match.groups() for match in parametrized):
        for spelling in _SPELLINGS:
            names = {
                f"{before}{tensor}{end}": f"{before}parametrizations.{tensor}.{part}"
                for end, part in spelling.items()
            }
            if old.keys() >= names.keys() and new.keys() >= {*names.values()}:
                yield from ((old[one], new[other]) for one, other in names.items())


def _prefixes(sides: _Sides) -> list[_Guess]:
    """A guess for every prefix that one side may have and the other not, if it is credible.

    It is where it explains half of the smaller side, and something in the same shape: names that
    share an ending (`fc.weight` and some `se.fc.weight`) are no reason to think of nesting.
    """
    families: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for source, target, prefix in _nested(sides.sources, sides.targets):
        via = f"prefix {prefix}. added"
        families[via, f"into {prefix}."].append(Match(target, source, via))
    for target, source, prefix in _nested(sides.targets, sides.sources):
        via = f"prefix {prefix}. dropped"
        families[via, f"below {prefix}."].append(Match(target, source, via))
    enough = min(len(sides.sources), len(sides.targets)) / 2
    guesses = [
        sides.guess(matches, where)
        for (_, where), matches in sorted(families.items(), key=lambda family: family[0])
        if len(matches) >= enough
    ]
    return [guess for guess in guesses if guess.votes]


#: Segments of the longest prefix that is thought of: a name may have thousands.
_LONGEST_PREFIX = 32


def _nested(tops: Mapping[str, str], names: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Names of one side that the other nests below a prefix (Lightning's `model.`), which comes
    third. Longest suffix wins, because detection models nest the backbone below more than one.
    """
    firsts = frozenset(name.partition(".")[0] for name in tops)
    for clean, below in names.items():
        segments = clean.split(".")
        for at, segment in enumerate(segments[1 : _LONGEST_PREFIX + 1], start=1):
            if segment in firsts and (suffix := ".".join(segments[at:])) in tops:
                yield tops[suffix], below, ".".join(segments[:at])
                break


def _judged(as_they_are: _Guess, prefixes: Sequence[_Guess]) -> list[tuple[_Guess, str]]:
    """All guesses, each with the reason why it does not hold; an empty one where it does.

    Guesses that want no tensor in common hold side by side. Names as they are beat a prefix that
    explains no more than they do. Any other two that want the same tensor (a student and a
    teacher, weights and their average, two towers of one width) look the same by their names,
    and neither holds: half of one network and half of another would be worse than nothing.
    """
    beaten = [g for g in prefixes if g.contests(as_they_are) and g.votes <= as_they_are.votes]
    rivals = [as_they_are, *(guess for guess in prefixes if guess not in beaten)]
    judged = []
    for guess in rivals:
        others = [each for each in rivals if each is not guess and each.contests(guess)]
        # In words that do not depend on the order of anything, nor on single names.
        where = sorted(each.where for each in (guess, *others))
        judged.append((guess, f"ambiguous: fits {' and '.join(where)}" if others else ""))
    return judged + [(guess, "a tensor of the very name is there") for guess in beaten]
