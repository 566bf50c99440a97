"""What a rename file says besides new names: tensors made of rows, and tensors left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from surgery.errors import Problem
from surgery.matching.lines.recipes import Made, resolve
from surgery.matching.lines.renames import Renames
from surgery.matching.matches import Match, Matches
from surgery.specs import ModelSpec, TensorSpec
from surgery.wrappers import unwrap_names

#: Source name -> its new name and the lines that made it.
NewNames = Mapping[str, tuple[str, tuple[int, ...]]]
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Given:
    """What the lines decide, so that names need not.

    ``names`` are the new names by source name; a source that only recipes use, or that is left
    out, has one that no tensor can have. ``by_target`` is what recipes make; ``left_out`` are
    the reasons by new name, ``used`` the new names that only recipes use.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    by_target: Mapping[str, Match] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    used: frozenset[str] = frozenset()

    def left(self, renamed: Mapping[str, Entry]) -> Mapping[str, Entry]:
        """The sources that names may still bring together with a target."""
        if not (self.left_out or self.used):
            return renamed
        return {
            new: entry
            for new, entry in renamed.items()
            if new not in self.left_out and new not in self.used
        }

    def added_to(self, matches: Matches) -> Matches:
        """All matches; a line speaks louder than names."""
        if not self.by_target:
            return matches
        displaced = {
            matches.by_target[target].source: f"{match.via} makes {target}"
            for target, match in self.by_target.items()
            if target in matches.by_target
        }
        by_target = {**matches.by_target, **self.by_target}
        refused = tuple(g for g in matches.refused if not {*g.targets} <= self.by_target.keys())
        return replace(
            matches,
            by_target=by_target,
            ambiguous_sources={**matches.ambiguous_sources, **displaced},
            refused=refused,
        )


def given_by(
    renames: Renames, sources: Sequence[TensorSpec], new_names: NewNames, target: ModelSpec
) -> tuple[Given, list[Problem]]:
    """Apply recipes to whole tensors, and leave out what lines leave nothing of."""
    made, problems = resolve(renames.recipes, sources, target.tensors)
    used = {spec.name for one in made.values() for spec in one.sources}
    problems += _fed_twice(made, new_names)
    names, left_out, aside = {}, {}, set()
    for spec in sources:
        new, lines = new_names[spec.name]
        if not new:
            new = _apart(spec.name)
            left_out[new] = f"left out by line {lines[-1]}"
        elif spec.name in used and not lines:
            new = _apart(spec.name)
            aside.add(new)
        names[spec.name] = new
    matches = {
        name: Match(name, names[one.sources[0].name], f"line {one.line}", one.operation)
        for name, one in made.items()
    }
    matches |= {match.target: match for match in _tied(matches, target)}
    return Given(names, matches, left_out, frozenset(aside)), problems


def _apart(name: str) -> str:
    """A name that no tensor has after renames: none begins with a dot."""
    return f".{name}"


def _fed_twice(made: Mapping[str, Made], new_names: NewNames) -> Iterator[Problem]:
    """A line that gives a recipe's target another source than the recipe does."""
    clean_targets = {clean: made[name] for name, clean in unwrap_names(made).items()}
    clean_news = _clean(new for new, lines in new_names.values() if lines and new)
    for source, (new, lines) in new_names.items():
        one = made.get(new) or clean_targets.get(clean_news.get(new, new))
        if one and lines and source not in {spec.name for spec in one.sources}:
            yield Problem(
                one.line,
                f"{one.target.name} is made here, and line {lines[-1]} renames {source} to it; "
                "remove one of them",
            )


def _clean(names: Iterable[str]) -> Mapping[str, str]:
    return unwrap_names(dict.fromkeys(names))


def _tied(matches: Mapping[str, Match], target: ModelSpec) -> Iterator[Match]:
    """The other names of a tensor that a recipe makes: their values are the same."""
    for names in target.ties if matches else ():
        for found in [matches[name] for name in names if name in matches][:1]:
            for name in names:
                if name not in matches:
                    yield replace(found, target=name)
