"""A mapping, which says what becomes of source tensors: ``left -> right`` a line, read whole.

::

    # comments and blank lines are free
    encoder -> backbone                      # a new name, see surgery.matching.lines.renames
    q.weight + k.weight -> qk.weight         # a recipe, see surgery.matching.lines.recipe_lines
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TypeAlias

from surgery.checkpoint.text import lines_of, read_text
from surgery.errors import MappingError, Problem, SelectorError
from surgery.matching.lines.recipe_lines import RecipeLine, is_recipe, read_recipe
from surgery.matching.lines.renames import Rename, applied, read_rename
from surgery.patterns import end_of_regex
from surgery.wording import printable, shortened


@dataclass(frozen=True, slots=True)
class TensorMapping:
    """All lines of one mapping, in order; ``path`` is what errors call it."""

    path: str
    renames: tuple[Rename, ...]
    recipes: tuple[RecipeLine, ...] = ()

    def applied(
        self, names: Iterable[str]
    ) -> tuple[dict[str, tuple[str, tuple[int, ...]]], list[Problem]]:
        """As :func:`surgery.matching.lines.renames.applied`."""
        return applied(self.renames, names)


#: A path, the text itself (it has an arrow), or left sides with their right sides.
MappingLike: TypeAlias = "TensorMapping | str | PathLike[str] | Mapping[str, str] | None"


def read_mapping(mapping: MappingLike) -> TensorMapping | None:
    """What the mapping says; None where there is none.

    Raises :class:`MappingError` for a file that cannot be opened or lines that cannot be read.
    """
    if mapping is None or isinstance(mapping, TensorMapping):
        return mapping
    if isinstance(mapping, Mapping):
        return _read(*_sides_of(mapping), "<mapping>")
    if not isinstance(mapping, str | PathLike):
        why = f"expected a path, its text or a mapping of names, found {shortened(repr(mapping))}"
        raise MappingError("<mapping>", [Problem(0, why)])
    if isinstance(mapping, str) and ("->" in mapping or "\n" in mapping):
        return parse_mapping(mapping)
    return parse_mapping(read_text(mapping, MappingError), printable(mapping))


def parse_mapping(text: str, path: str = "<mapping>") -> TensorMapping:
    """Read lines; raises :class:`MappingError` with every one that cannot be read."""
    sides: list[tuple[int, str, str]] = []
    problems: list[Problem] = []
    for number, raw in enumerate(lines_of(text), start=1):
        left, arrow, right = _parts(raw)
        if arrow:
            sides.append((number, left, right))
        elif left:
            expected = "expected 'pattern -> replacement'"
            problems.append(Problem(number, f"{expected}, found {shortened(left)!r}"))
    return _read(sides, problems, path)


def _parts(raw: str) -> tuple[str, str, str]:
    """What stands left of the arrow, the arrow and what stands right of it, without a comment.

    A ``/regex/`` may hold both.
    """
    line = raw.strip()
    inside = end_of_regex(line, 0) if line.startswith("/") else 0
    inside = inside if line[:inside].endswith("/") else 0
    rest = re.sub(r"(^|\s)#.*", "", line[inside:])
    left, arrow, right = rest.partition("->")
    return (line[:inside] + left).strip(), arrow, right.strip()


def _sides_of(mapping: Mapping[str, str]) -> tuple[list[tuple[int, str, str]], list[Problem]]:
    """Lines count from 1 in the mapping's order."""
    sides: list[tuple[int, str, str]] = []
    problems: list[Problem] = []
    for line, pair in enumerate(mapping.items(), start=1):
        if all(isinstance(side, str) for side in pair):
            sides.append((line, *pair))
        else:
            found = shortened(repr(pair))
            why = f"expected a pattern and its replacement as text, found {found}"
            problems.append(Problem(line, why))
    return sides, problems


def _read(
    sides: Iterable[tuple[int, str, str]], problems: Sequence[Problem], path: str
) -> TensorMapping:
    """(line, left, right); ``problems`` are raised with those found here."""
    renames: list[Rename] = []
    recipes: list[RecipeLine] = []
    found = list(problems)
    for number, left, right in sides:
        try:
            if not left:
                expected = "expected a name, a glob or a regular expression"
                raise ValueError(f"nothing stands before '->'; {expected}")
            if not left.startswith("/") and is_recipe(left, right):
                recipes.append(read_recipe(number, left, right))
            else:
                renames.append(read_rename(number, left, right))
        except SelectorError as error:
            found.append(Problem(number, error.message))
        except ValueError as error:
            found.append(Problem(number, str(error)))
    if found:
        raise MappingError(path, found)
    return TensorMapping(path, tuple(renames), tuple(recipes))
