"""Lines of a mapping that make a tensor of others: ``recipe -> name``.

The left side is a recipe as :mod:`surgery.matching.recipes.text` reads it, with the names of whole
tensors as they stand in the source; each ``*`` is (a part of) one segment, and the n-th of every
name stands for the same text. Wrappers (``module.`` ...) are looked through. Where the target is
stored (in, out), its name ends in ``^T``.

A line is read from its target: every target tensor that the right side names is given the
sources that the left side then names. A target none of whose sources is there is not meant, as a
deeper network has layers that the source has not; one of which some are missing is an error.

A source may feed any number of lines. Names do not bring it together with a target of its name
as well, unless a plain line says so too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import Problem, did_you_mean
from surgery.matching.recipes.recipe import Recipe
from surgery.matching.recipes.text import NAME, TURNED, Expression, is_expression, read, recipe_of
from surgery.patterns.globs import candidates, glob_to_regex
from surgery.specs import TensorSpec
from surgery.wording import shape_text
from surgery.wrappers import unwrap_names


@dataclass(frozen=True, slots=True)
class RecipeLine:
    """What a line says, and the target tensors that it makes, perhaps stored (in, out)."""

    expression: Expression
    target: str
    transposed: bool = False


def is_recipe(left: str, right: str) -> bool:
    """Whether a line makes tensors of others, rather than renaming."""
    return right.endswith(TURNED) or is_expression(left)


def read_recipe(left: str, right: str) -> RecipeLine:
    """Read a line; raises ValueError that says why it cannot be read."""
    target = right.removesuffix(TURNED)
    expression = read(left)
    if not re.fullmatch(NAME, target):
        raise ValueError(f"{left!r} makes one target tensor; expected its name, found {right!r}")
    for name in (target, *expression.names):
        if "**" in name:
            raise ValueError(f"{name!r}: ** may be any number of segments; write a * for each")
        if name.count("*") != target.count("*"):
            raise ValueError(
                f"{name!r} has {name.count('*')} '*' and the target {target!r} "
                f"{target.count('*')}: each * stands for the same text in all of them"
            )
    return RecipeLine(expression, target, right.endswith(TURNED))


def resolve(
    lines: Mapping[int, RecipeLine], sources: Iterable[TensorSpec], targets: Iterable[TensorSpec]
) -> tuple[dict[str, tuple[int, Recipe]], list[Problem]]:
    """The line that makes each target and its recipe, by name; every problem, one for each line."""
    made: dict[str, tuple[int, Recipe]] = {}
    problems: list[Problem] = []
    if not lines:
        return made, problems
    ours, theirs = Named(sources), Named(targets)
    for number, line in lines.items():
        try:
            for name, recipe in made_by(line, ours, theirs).items():
                other, _ = made.setdefault(name, (number, recipe))
                if other != number:
                    raise ValueError(f"line {other} makes {name} already; remove one of them")
        except ValueError as error:
            problems.append(Problem(number, str(error)))
    return made, problems


def made_by(line: RecipeLine, ours: Named, theirs: Named) -> dict[str, Recipe]:
    """What one line makes, by target name; raises ValueError where it does not fit."""
    meant = theirs.matching(line.target)
    if not meant:
        what = "no target matches" if "*" in line.target else "no target tensor is called"
        raise ValueError(f"{what} {line.target!r}{did_you_mean(line.target, theirs.names)}")
    made: dict[str, Recipe] = {}
    absent = ""
    for target, texts in meant:
        specs = {name: ours.get(_filled(name, texts)) for name in line.expression.names}
        found = {name: spec for name, spec in specs.items() if spec}
        missing = [_filled(name, texts) for name in specs if name not in found]
        if missing:
            near = did_you_mean(missing[0], ours.names)
            absent = absent or f"no source tensor is called {missing[0]!r}{near}"
            if found:
                raise ValueError(f"for {target.name}: {absent}")
            continue
        turned = line.transposed
        shape = tuple(reversed(target.shape)) if turned else target.shape
        if turned and len(shape) != 2:
            shapes = shape_text(target.shape)
            raise ValueError(f"only a matrix is stored (in, out): {target.name} is {shapes}")
        try:
            recipe = recipe_of(line.expression, found.__getitem__, shape)
        except ValueError as error:
            stored = " stored (in, out)" if turned else ""
            is_ = f"{target.name} is {shape_text(target.shape)}{stored}"
            raise ValueError(f"{is_}, and {error}") from error
        if not recipe.sources:
            raise ValueError(f"{target.name} is zeros alone; leave out what is to stay fresh")
        made[target.name] = recipe.permute((1, 0)) if turned else recipe
    if not made:
        raise ValueError(absent)
    return made


def _filled(glob: str, texts: Sequence[str]) -> str:
    first, *parts = glob.split("*")
    return first + "".join(text + part for text, part in zip(texts, parts, strict=False))


class Named:
    """Tensors by their own names, by those below wrappers, and by globs."""

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self.names = {spec.name: spec for spec in specs}
        self._clean = {clean: self.names[name] for name, clean in unwrap_names(self.names).items()}
        self._sorted = sorted(self._clean)

    def get(self, name: str) -> TensorSpec | None:
        return self.names.get(name) or self._clean.get(name)

    def matching(self, glob: str) -> list[tuple[TensorSpec, tuple[str, ...]]]:
        """The tensors that a glob names, and what each ``*`` stands for."""
        if "*" not in glob:
            spec = self.get(glob)
            return [(spec, ())] if spec else []
        regex = re.compile(glob_to_regex(glob, end=r"\Z", carries=True))
        return [
            (self._clean[name], match.groups())
            # There may be a line for each of 10,000 layers.
            for name in self._sorted[candidates(glob, self._sorted)]
            if (match := regex.fullmatch(name))
        ]
