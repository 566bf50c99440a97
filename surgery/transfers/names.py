"""Source names to target names: wrappers, spellings, prefixes.

Four looks, each at what the one before left over, and none of them at values:

1. the same name;
2. the same name below wrappers (``module.``, ``_orig_mod.``, ...), on either side;
3. another spelling of the same tensor (weight normalisation, old and new);
4. a prefix that one side has and the other has not.

A match is one-to-one or it is not made; what was ambiguous is said.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names


@dataclass(frozen=True, slots=True)
class Match:
    """One target name, the source name that feeds it, and how the two were brought together.

    ``via`` is empty where both names are the same.
    """

    target: str
    source: str
    via: str = ""


@dataclass(frozen=True, slots=True)
class Matches:
    """All matches, and why some names on either side have none although they could."""

    by_target: Mapping[str, Match]
    ambiguous_targets: Mapping[str, str] = field(default_factory=dict)
    ambiguous_sources: Mapping[str, str] = field(default_factory=dict)


def match_names(sources: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]) -> Matches:
    """Bring source names and target names together.

    ``sources`` and ``targets`` map names (after any renames) to specs; shapes are evidence for
    prefixes only, since a tensor of another shape is still the tensor of that name.
    """
    by_target: dict[str, Match] = {}
    left = _Left(sources, targets)
    for match in _same(left):
        by_target[match.target] = match
    left = left.without(by_target.values())
    for match in _respelled(left):
        by_target[match.target] = match
    left = left.without(by_target.values())
    prefixed = _prefixed(left)
    by_target.update(prefixed.by_target)
    return Matches(by_target, prefixed.ambiguous_targets, prefixed.ambiguous_sources)


class _Left:
    """What is not matched yet, under unwrapped names."""

    def __init__(
        self, sources: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
    ) -> None:
        self.sources, self.targets = sources, targets
        self.source_by_clean = {clean: raw for raw, clean in unwrap_names(sources).items()}
        self.target_by_clean = {clean: raw for raw, clean in unwrap_names(targets).items()}

    def without(self, matches: Iterable[Match]) -> _Left:
        used_sources = {match.source for match in matches}
        used_targets = {match.target for match in matches}
        return _Left(
            {name: spec for name, spec in self.sources.items() if name not in used_sources},
            {name: spec for name, spec in self.targets.items() if name not in used_targets},
        )


def _same(left: _Left) -> Iterator[Match]:
    # Names that agree to the letter come first: a network that really has a submodule called
    # `module` must not be looked through.
    exact = left.sources.keys() & left.targets.keys()
    yield from (Match(name, name) for name in left.targets if name in exact)
    for clean, target in left.target_by_clean.items():
        source = left.source_by_clean.get(clean)
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


def _respelled(left: _Left) -> Iterator[Match]:
    """Both directions of the spellings above, a whole family of names at a time."""
    pairs = (
        (left.source_by_clean, left.target_by_clean, False),
        (left.target_by_clean, left.source_by_clean, True),
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


@dataclass(frozen=True, slots=True)
class _Edge:
    """A source and a target that a prefix could bring together. Names are unwrapped."""

    source: str
    target: str
    prefix: str
    added: bool  # whether the target has the prefix; else the source has it

    @property
    def label(self) -> tuple[str, bool]:
        return self.prefix, self.added

    @property
    def via(self) -> str:
        return f"prefix {self.prefix}. {'added' if self.added else 'dropped'}"


def _prefixed(left: _Left) -> Matches:
    """Names that a prefix brings together, the best supported prefix first.

    A prefix counts where it explains at least half of the tensors below it and at least one of
    those in the same shape: `fc.weight` must not wander into some `se.fc.weight`. Where two
    prefixes that are supported equally well want the same tensor (a student and a teacher,
    a query and a key encoder), neither gets it.
    """
    edges = _credible(left, [*_added(left), *_dropped(left)])
    votes = Counter(edge.label for edge in edges if _same_shape(left, edge))
    by_target: dict[str, Match] = {}
    ambiguous_targets: dict[str, str] = {}
    ambiguous_sources: dict[str, str] = {}
    taken: set[str] = set()
    for rank in sorted(set(votes.values()), reverse=True):
        level = [
            edge
            for edge in edges
            if votes[edge.label] == rank
            and f"s:{edge.source}" not in taken
            and f"t:{edge.target}" not in taken
        ]
        rivals_of_source, rivals_of_target = _rivals(level)
        for edge in level:
            sources, targets = rivals_of_target[edge.target], rivals_of_source[edge.source]
            source, target = left.source_by_clean[edge.source], left.target_by_clean[edge.target]
            if len(sources) > 1:
                ambiguous_targets[target] = f"fits {_either(sources)} equally well"
                ambiguous_sources[source] = f"not the only one that fits {target}"
            elif len(targets) > 1:
                ambiguous_sources[source] = f"fits {_either(targets)} equally well"
                ambiguous_targets[target] = f"not the only one that {source} fits"
            else:
                by_target[target] = Match(target, source, edge.via)
            taken |= {f"s:{edge.source}", f"t:{edge.target}"}
    return Matches(by_target, ambiguous_targets, ambiguous_sources)


def _added(left: _Left) -> Iterator[_Edge]:
    """The target nests what the source has at the top. Longest suffix wins, because detection
    models nest the backbone below more than one name.
    """
    for target in left.target_by_clean:
        for prefix, suffix in _splits(target):
            if suffix in left.source_by_clean:
                yield _Edge(suffix, target, prefix, added=True)
                break


def _dropped(left: _Left) -> Iterator[_Edge]:
    """The source nests what the target has at the top, as Lightning's `model.` does."""
    for source in left.source_by_clean:
        for prefix, suffix in _splits(source):
            if suffix in left.target_by_clean:
                yield _Edge(source, suffix, prefix, added=False)
                break


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """(prefix, suffix) at every dot, the longest suffix first."""
    at = name.find(".")
    while at >= 0:
        yield name[:at], name[at + 1 :]
        at = name.find(".", at + 1)


def _credible(left: _Left, edges: list[_Edge]) -> list[_Edge]:
    explained = Counter(edge.label for edge in edges)
    below = {
        True: _tensors_below(left.target_by_clean),
        False: _tensors_below(left.source_by_clean),
    }
    return [edge for edge in edges if 2 * explained[edge.label] >= below[edge.added][edge.prefix]]


def _tensors_below(names: Iterable[str]) -> Counter[str]:
    return Counter(prefix for name in names for prefix, _ in _splits(name))


def _same_shape(left: _Left, edge: _Edge) -> bool:
    source = left.sources[left.source_by_clean[edge.source]]
    target = left.targets[left.target_by_clean[edge.target]]
    return source.shape == target.shape


def _rivals(edges: Iterable[_Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    by_source: dict[str, list[str]] = defaultdict(list)
    by_target: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        by_source[edge.source].append(edge.target)
        by_target[edge.target].append(edge.source)
    return by_source, by_target


def _either(names: list[str]) -> str:
    names = sorted(names)
    return " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
