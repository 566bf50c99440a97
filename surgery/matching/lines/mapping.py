"""A mapping, which says what becomes of source tensors: ``left -> right`` a line, read whole.

::

    # comments and blank lines are free
    encoder -> backbone                      # a new name, see surgery.matching.lines.renames
    q.weight + k.weight -> qk.weight         # a recipe, see surgery.matching.lines.recipe_lines
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TypeAlias, TypeVar

from surgery.checkpoint.text import lines_of, read_text
from surgery.errors import MappingError, Problem, SelectorError
from surgery.matching.lines.recipe_lines import RecipeLine, is_recipe, read_recipe
from surgery.matching.lines.renames import read_rename
from surgery.patterns import Pairing, end_of_regex
from surgery.wording import printable, shortened

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class TensorMapping:
    """All lines of one mapping by their numbers, in order; ``path`` is what errors call it."""

    path: str
    renames: Mapping[int, Pairing]
    recipes: Mapping[int, RecipeLine] = field(default_factory=dict)


#: A path, the text itself (it has an arrow), or left sides with their right sides.
MappingLike: TypeAlias = "TensorMapping | str | PathLike[str] | Mapping[str, str] | None"


def read_mapping(mapping: MappingLike) -> TensorMapping | None:
    """What the mapping says; None where there is none.

    Raises :class:`MappingError` for a file that cannot be opened or lines that cannot be read.
    """
    if mapping is None or isinstance(mapping, TensorMapping):
        return mapping
    if isinstance(mapping, Mapping):
        return _read(mapping.items(), _pair, "<mapping>")
    if not isinstance(mapping, str | PathLike):
        why = f"expected a path, its text or a mapping of names, found {shortened(repr(mapping))}"
        raise MappingError("<mapping>", [Problem(0, why)])
    if isinstance(mapping, str) and ("->" in mapping or "\n" in mapping):
        return parse_mapping(mapping)
    return parse_mapping(read_text(mapping, MappingError), printable(mapping))


def parse_mapping(text: str, path: str = "<mapping>") -> TensorMapping:
    """Read lines; raises :class:`MappingError` with every one that cannot be read."""
    return _read(lines_of(text), _parts, path)


def _parts(raw: str) -> tuple[str, str] | None:
    """What stands left and right of the arrow, without a comment; a ``/regex/`` may hold both."""
    line = raw.strip()
    inside = end_of_regex(line, 0) if line.startswith("/") else 0
    inside = inside if line[:inside].endswith("/") else 0
    rest = re.sub(r"(^|\s)#.*", "", line[inside:])
    left, arrow, right = rest.partition("->")
    left = (line[:inside] + left).strip()
    if left and not arrow:
        other = _as_a_line(left)
        raise ValueError(f"expected 'pattern -> replacement', found {shortened(left)!r}{other}")
    return (left, right.strip()) if arrow else None


def _as_a_line(text: str) -> str:
    """What an assignment would be as a line, and what that line has wrong."""
    target, equals, made = map(str.strip, text.partition("="))
    if not equals:
        return ""
    wrong = ""
    try:
        if is_recipe(made, target):
            read_recipe(made, target)
    except ValueError as error:
        wrong = f" ({error})"
    return f"; did you mean {shortened(f'{made} -> {target}')!r}?{wrong}"


def _pair(pair: tuple[object, object]) -> tuple[str, str]:
    left, right = pair
    if not isinstance(left, str) or not isinstance(right, str):
        found = shortened(repr(pair))
        raise ValueError(f"expected a pattern and its replacement as text, found {found}")
    return left, right


def _read(
    rows: Iterable[Row], sides_of: Callable[[Row], tuple[str, str] | None], path: str
) -> TensorMapping:
    """All rows, which count from 1; those that have no sides say nothing."""
    renames: dict[int, Pairing] = {}
    recipes: dict[int, RecipeLine] = {}
    problems: list[Problem] = []
    for number, row in enumerate(rows, start=1):
        try:
            sides = sides_of(row)
            if sides is None:
                continue
            left, right = sides
            if not left:
                expected = "expected a name, a glob or a regular expression"
                raise ValueError(f"nothing stands before '->'; {expected}")
            if not left.startswith("/") and is_recipe(left, right):
                recipes[number] = read_recipe(left, right)
            else:
                renames[number] = read_rename(left, right)
        except (SelectorError, ValueError) as error:
            problems.append(Problem(number, str(error)))
    if problems:
        raise MappingError(path, problems)
    return TensorMapping(path, renames, recipes)
