"""Recipes -> lines of a mapping: one for each kind, one for each tensor where that says more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.errors import SurgeryError
from surgery.matching.lines.drafting import is_odd
from surgery.matching.lines.folding import fold_numbers
from surgery.matching.lines.recipe_lines import read_recipe, resolve
from surgery.matching.recipes.recipe import Recipe
from surgery.matching.recipes.text import TURNED
from surgery.matching.recipes.writing import sides_of
from surgery.specs import TensorSpec

_BLANK = "\0"


@dataclass(frozen=True, slots=True)
class _Draft:
    """A line for several targets, and one for each of them."""

    line: str
    alone: tuple[str, ...]
    targets: tuple[str, ...]


def draft_recipes(
    made: Mapping[str, Recipe], sources: Iterable[TensorSpec], targets: Iterable[TensorSpec]
) -> list[str]:
    """Lines that make the recipes, by target name, of these sources and nothing else.

    Raises :class:`~surgery.errors.SurgeryError` for a name that no recipe can have.
    """
    forms: dict[tuple[str, bool], list[tuple[str, ...]]] = {}
    for target, recipe in made.items():
        names = (*(view.source.name for view in recipe.views), target)
        if odd := [name for name in names if is_odd(name)]:
            raise SurgeryError(f"no recipe of a mapping can have the name {odd[0]!r}")
        blank = recipe.with_sources(lambda spec: replace(spec, name=_BLANK))
        forms.setdefault(sides_of(blank), []).append(names)
    order = {target: at for at, target in enumerate(made)}
    drafts = [
        _Draft(
            _line(form, starred.texts),
            tuple(_line(form, names[at]) for at in starred.members),
            tuple(names[at][-1] for at in starred.members),
        )
        for form, names in forms.items()
        for starred in fold_numbers(names)
    ]
    drafts.sort(key=lambda draft: order[draft.targets[0]])
    read = [read_recipe(at, *draft.line.split(" -> ")) for at, draft in enumerate(drafts)]
    found, problems = resolve(read, sources, targets)
    meant = {target: at for at, draft in enumerate(drafts) for target in draft.targets}
    bad = {problem.line for problem in problems}
    bad |= {one.line for target, one in found.items() if meant.get(target) != one.line}
    bad |= {at for target, at in meant.items() if target not in found}
    bad |= {meant[target] for target in made.keys() & found if made[target] != found[target].recipe}
    return [
        line
        for at, draft in enumerate(drafts)
        for line in (draft.alone if at in bad else [draft.line])
    ]


def _line(form: tuple[str, bool], texts: Sequence[str]) -> str:
    left, turned = form
    names = iter(texts)

    def filled(blank: re.Match[str]) -> str:
        name = next(names)
        bare = blank.end() == len(left) or left[blank.end()] not in "[^"
        return f"{name}[:]" if name == "0" and bare else name

    return f"{re.sub(_BLANK, filled, left)} -> {texts[-1]}{TURNED * turned}"
