"""Recipes -> lines of a mapping: one for each kind, one for each tensor where that says more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from surgery.errors import SurgeryError
from surgery.matching.lines.folding import fold_numbers
from surgery.matching.lines.recipe_lines import Named, made_by, read_recipe
from surgery.matching.recipes.recipe import Recipe
from surgery.matching.recipes.text import TURNED
from surgery.matching.recipes.writing import sides_of
from surgery.patterns import is_plain
from surgery.specs import TensorSpec

_BLANK = "\0"


#: A left side with blanks for names, and whether the target is stored (in, out).
_Form = tuple[str, bool]


def draft_recipes(
    made: Mapping[str, Recipe], sources: Iterable[TensorSpec], targets: Iterable[TensorSpec]
) -> list[str]:
    """Lines that make the recipes, by target name, of these sources and nothing else.

    Raises :class:`~surgery.errors.SurgeryError` for a name that no recipe can have.
    """
    forms: dict[_Form, list[tuple[str, ...]]] = {}
    for target, recipe in made.items():
        names = (*(view.source.name for view in recipe.views), target)
        if odd := [name for name in names if not is_plain(name)]:
            raise SurgeryError(f"no recipe of a mapping can have the name {odd[0]!r}")
        blank = recipe.with_sources(lambda spec: replace(spec, name=_BLANK))
        forms.setdefault(sides_of(blank), []).append(names)
    ours, theirs = Named(sources), Named(targets)
    drafts: dict[str, list[str]] = {}
    for form, every in forms.items():
        for starred in fold_numbers(every):
            line, members = _line(form, starred.texts), [every[at] for at in starred.members]
            wanted = {target: made[target] for *_, target in members}
            exact = _makes(line, wanted, ours, theirs)
            drafts[members[0][-1]] = [line] if exact else [_line(form, each) for each in members]
    return [line for target in made for line in drafts.get(target, ())]


def _makes(line: str, wanted: Mapping[str, Recipe], ours: Named, theirs: Named) -> bool:
    try:
        return made_by(read_recipe(*line.split(" -> ")), ours, theirs) == wanted
    except ValueError:
        return False


def _line(form: _Form, texts: Sequence[str]) -> str:
    left, turned = form
    names = iter(texts)

    def filled(blank: re.Match[str]) -> str:
        name = next(names)
        bare = blank.end() == len(left) or left[blank.end()] not in "[^"
        return f"{name}[:]" if name == "0" and bare else name

    return f"{re.sub(_BLANK, filled, left)} -> {texts[-1]}{TURNED * turned}"
