"""What a mapping decides before names do: new names, tensors made by recipes, tensors left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from surgery.errors import MappingError, Problem, TransferRefused
from surgery.matching.lines.mapping import TensorMapping
from surgery.matching.lines.recipe_lines import resolve
from surgery.matching.lines.renames import applied
from surgery.matching.matches import Match, Matches
from surgery.matching.recipes.recipe import Recipe
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.wording import first_lines
from surgery.wrappers import unwrap_names


@dataclass(frozen=True, slots=True)
class Renamed:
    """A source tensor under its new name, and the lines of the mapping that made it."""

    spec: TensorSpec
    lines: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What the lines decide, so that names need not.

    ``sources`` are by new name; one that only recipes use, or that is left out, has one that no
    tensor can have: it begins with a dot. These are ``aside``. ``by_target`` is what recipes make;
    ``left_out`` are reasons by new name.
    """

    sources: Mapping[str, Renamed]
    by_target: Mapping[str, Match] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()

    @property
    def left(self) -> Mapping[str, Renamed]:
        """The sources that names may still bring together with a target."""
        return {new: entry for new, entry in self.sources.items() if new not in self.aside}

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


def given_by(mapping: TensorMapping | None, source: SourceSpec, target: ModelSpec) -> Given:
    """Apply all lines. Raises :class:`MappingError` with every one that does not fit, and
    :class:`TransferRefused` where they send two tensors of the source to one name.
    """
    if mapping is None:
        return Given({spec.name: Renamed(spec) for spec in source.specs})
    new_names, dead = applied(mapping.renames, (spec.name for spec in source.specs))
    made, problems = resolve(mapping.recipes, source.specs, target.tensors)
    problems += [*dead, *_fed_twice(made, new_names)]
    if problems:
        raise MappingError(mapping.path, problems)
    used = {spec.name for _, recipe in made.values() for spec in recipe.sources}
    left_out: dict[str, str] = {}
    aside = set()
    for name, (new, lines) in new_names.items():
        if (lines and not new) or (name in used and not lines):
            aside.add(f".{name}")
            left_out |= {f".{name}": f"left out by line {lines[-1]}"} if lines else {}
            new_names[name] = f".{name}", lines
    matches = {
        name: Match(
            name,
            new_names[recipe.sources[0].name][0],
            f"line {line}",
            None if recipe.is_copy else recipe,
            tier="lines",
        )
        for name, (line, recipe) in made.items()
    }
    matches |= {match.target: match for match in _tied(matches, target)}
    return Given(_by_new_name(mapping, source, new_names), matches, left_out, frozenset(aside))


def _by_new_name(
    mapping: TensorMapping,
    source: SourceSpec,
    new_names: Mapping[str, tuple[str, tuple[int, ...]]],
) -> dict[str, Renamed]:
    """Two names of one tensor may land on one, two others not."""
    tied = {name: group[0] for group in source.ties for name in group}
    by_new: dict[str, Renamed] = {}
    clashes = []
    for spec in source.specs:
        new, lines = new_names[spec.name]
        other = by_new.setdefault(new, Renamed(spec, lines)).spec
        if other is not spec and tied.get(other.name) != tied.get(spec.name, spec.name):
            numbers = ", ".join(map(str, by_new[new].lines + lines))
            clashes.append(f"{other.name} and {spec.name} -> {new} (line {numbers})")
    if clashes:
        raise TransferRefused(
            f"{mapping.path} sends two source tensors to one name; nothing was changed",
            [*first_lines(clashes, 10), "a line 'NAME -> (unused)' leaves one of two out"],
        )
    return by_new


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
