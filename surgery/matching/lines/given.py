"""What a mapping decides before names do: new names, tensors made by recipes, tensors left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from surgery.errors import MappingError, Problem
from surgery.matching.lines.mapping import TensorMapping
from surgery.matching.lines.recipe_lines import resolve
from surgery.matching.lines.renames import applied
from surgery.matching.matches import Match, Matches
from surgery.matching.recipes.recipe import Recipe
from surgery.specs import ModelSpec, TensorSpec
from surgery.wrappers import unwrap_names

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Given:
    """What the lines decide, so that names need not.

    ``names`` are new names by source name, with the lines that made them; a source that only
    recipes use, or that is left out, has one that no tensor can have: it begins with a dot.
    These are ``aside``. ``by_target`` is what recipes make; ``left_out`` are reasons by new name.
    """

    names: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    by_target: Mapping[str, Match] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()

    def left(self, renamed: Mapping[str, Entry]) -> Mapping[str, Entry]:
        """The sources that names may still bring together with a target."""
        return {new: entry for new, entry in renamed.items() if new not in self.aside}

    def added_to(self, matches: Matches) -> Matches:
        """All matches; a line speaks louder than names."""
        displaced = {
            matches.by_target[target].source: f"{match.via} makes {target}"
            for target, match in self.by_target.items()
            if target in matches.by_target
        }
        return replace(
            matches,
            by_target={**matches.by_target, **self.by_target},
            ambiguous_sources={**matches.ambiguous_sources, **displaced},
            open=tuple(g for g in matches.open if not {*g.targets} <= self.by_target.keys()),
        )


def given_by(mapping: TensorMapping, sources: Sequence[TensorSpec], target: ModelSpec) -> Given:
    """Apply all lines; raises :class:`MappingError` with every one that does not fit."""
    new_names, dead = applied(mapping.renames, (spec.name for spec in sources))
    made, problems = resolve(mapping.recipes, sources, target.tensors)
    problems += [*dead, *_fed_twice(made, new_names)]
    if problems:
        raise MappingError(mapping.path, problems)
    used = {spec.name for _, recipe in made.values() for spec in recipe.sources}
    names: dict[str, tuple[str, tuple[int, ...]]] = {}
    left_out: dict[str, str] = {}
    aside = set()
    for name, (new, lines) in new_names.items():
        if (lines and not new) or (name in used and not lines):
            aside.add(f".{name}")
            left_out |= {f".{name}": f"left out by line {lines[-1]}"} if lines else {}
            new = f".{name}"
        names[name] = new, lines
    matches = {
        name: Match(
            name,
            names[recipe.sources[0].name][0],
            f"line {line}",
            None if recipe.is_copy else recipe,
            tier="lines",
        )
        for name, (line, recipe) in made.items()
    }
    matches |= {match.target: match for match in _tied(matches, target)}
    return Given(names, matches, left_out, frozenset(aside))


def _fed_twice(
    made: Mapping[str, tuple[int, Recipe]], new_names: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Iterator[Problem]:
    """A line that gives a recipe's target another source than the recipe does."""
    by_clean = {clean: name for name, clean in unwrap_names(made).items()}
    clean = unwrap_names(new for new, lines in new_names.values() if lines and new)
    for source, (new, lines) in new_names.items():
        name = new if new in made else by_clean.get(clean.get(new, new))
        if name is None or not lines:
            continue
        line, recipe = made[name]
        if source not in {spec.name for spec in recipe.sources}:
            yield Problem(
                line,
                f"{name} is made here, and line {lines[-1]} renames {source} to it; "
                "remove one of them",
            )


def _tied(matches: Mapping[str, Match], target: ModelSpec) -> Iterator[Match]:
    """The other names of a tensor that a recipe makes: their values are the same."""
    for names in target.ties if matches else ():
        for found in [matches[name] for name in names if name in matches][:1]:
            yield from (replace(found, target=name) for name in names if name not in matches)
