r"""The rename file: ``pattern -> replacement`` a line, text -> :class:`Renames` -> new names.

::

    # comments and blank lines are free
    encoder -> backbone                    # whole segments, anywhere in the name
    layers.*.attn -> blocks.*.attention    # each * is one segment, carried over
    ^blocks_(\d+)\. -> blocks.\1.            # a regular expression, with its groups
    aux_head -> (unused)                   # whatever has it in its name is left out
    layers.*.q.weight + layers.*.k.weight + layers.*.v.weight -> blocks.*.qkv.weight

All lines look at the name as it stands in the file, so two lines can swap two names; where two
lines want the same text, the earlier has it. A match starts and ends at a dot or at an end of
the name: ``layer1`` never touches ``layer10``, and ``mlp`` never ``cpb_mlp``. The last line is a
recipe, which makes one tensor of rows of others: see :mod:`surgery.matching.lines.recipes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import Problem, RenameError, did_you_mean
from surgery.matching.lines.recipes import Recipe, is_recipe, read_recipe
from surgery.wrappers import unwrap_name

_PLAIN = re.compile(r"[\w.\-]*\Z")
_GLOB = re.compile(r"[\w.\-*]*\Z")
#: A regular expression that can only mean these segments.
_LITERAL = re.compile(r"\^((?:[\w\-]|\\\.)+)\$?\Z")

#: The replacement that leaves a tensor out.
UNUSED = "(unused)"


@dataclass(frozen=True, slots=True)
class Rename:
    """One line: where it stands, what it says, and how its pattern is read."""

    line: int
    pattern: str
    replacement: str

    @property
    def kind(self) -> str:
        """``"name"``, ``"glob"`` or ``"regex"``: by the characters that no name has."""
        if _PLAIN.match(self.pattern):
            return "name"
        return "glob" if _GLOB.match(self.pattern) else "regex"

    @property
    def regex(self) -> str:
        """The pattern as a regular expression, held to whole segments."""
        body = self.pattern if self.kind == "regex" else _glob_to_regex(self.pattern)
        return rf"(?:^|(?<=\.)|(?=\.))(?:{body})(?:$|(?=\.)|(?<=\.))"

    def replaced(self, match: re.Match[str]) -> str:
        """What stands for a match of :attr:`regex`."""
        if self.kind == "regex":
            return match.expand(self.replacement)
        first, *parts = self.replacement.split("*")
        return first + "".join(
            text + part for text, part in zip(match.groups(), parts, strict=False)
        )


def _glob_to_regex(pattern: str) -> str:
    return r"([^.]+)".join(re.escape(part) for part in pattern.split("*"))


@dataclass(frozen=True, slots=True)
class Renames:
    """The lines of one rename file, in order: plain ones, and recipes for whole tensors.

    ``path`` is what errors call it.
    """

    path: str
    lines: tuple[Rename, ...]
    recipes: tuple[Recipe, ...] = ()

    def apply(self, names: Iterable[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Every name to its new name and the plain lines that made it; an empty new name is left
        out.

        Raises :class:`RenameError` for lines that match nothing, all of them at once.
        """
        renamed, problems = self.applied(names)
        if problems:
            raise RenameError(self.path, problems)
        return renamed

    def applied(
        self, names: Iterable[str]
    ) -> tuple[dict[str, tuple[str, tuple[int, ...]]], list[Problem]]:
        """As :meth:`apply`, with the problems to be raised among others."""
        names = list(names)
        lines = _Lines(self.lines, names)
        renamed = {name: _rename(name, lines) for name in names}
        used = {line for _, used in renamed.values() for line in used}
        dead = [rename for rename in self.lines if rename.line not in used]
        return renamed, _dead_lines(dead, lines.late, names) if dead else []


Compiled = tuple[int, Rename, re.Pattern[str]]


class _Lines:
    """The lines that may touch a name, found by the rarest segment that they ask for: a file may
    have a line for each of 10,000 layers.

    ``late`` are the lines that came too late for some name: an earlier one had its text.
    """

    def __init__(self, lines: Iterable[Rename], names: Iterable[str]) -> None:
        counts = Counter(segment for name in names for segment in name.split("."))
        self.late: set[int] = set()
        self._anywhere: list[Compiled] = []
        self._by_segment: dict[str, list[Compiled]] = {}
        for at, rename in enumerate(lines):
            compiled = (at, rename, re.compile(rename.regex))
            segments = _whole_segments(rename)
            if segments:
                rarest = min(segments, key=counts.__getitem__)
                self._by_segment.setdefault(rarest, []).append(compiled)
            else:
                self._anywhere.append(compiled)

    def of(self, name: str) -> list[Compiled]:
        """In the file's order, each once."""
        found = {compiled[0]: compiled for compiled in self._anywhere}
        for segment in name.split("."):
            for compiled in self._by_segment.get(segment, ()):
                found[compiled[0]] = compiled
        return [found[at] for at in sorted(found)]


def _whole_segments(rename: Rename) -> list[str]:
    if rename.kind == "regex":
        literal = _LITERAL.match(rename.pattern)
        return list(filter(None, literal[1].split("\\."))) if literal else []
    return [part for part in rename.pattern.split(".") if part and "*" not in part]


def _rename(name: str, lines: _Lines) -> tuple[str, tuple[int, ...]]:
    new, used = _substitute(name, lines)
    clean = unwrap_name(name)
    if clean != name:
        # A line that is held to the beginning of a name means that of the network's own.
        below, used_below = _substitute(clean, lines)
        if len(used_below) > len(used):
            new, used = below, used_below
    return (new, used) if used else (name, ())


def _substitute(name: str, lines: _Lines) -> tuple[str, tuple[int, ...]]:
    """All matches that do not overlap an earlier line's, replaced at once."""
    taken: list[tuple[int, int, str, int]] = []
    left_out = False
    for _, rename, regex in lines.of(name):
        for match in regex.finditer(name):
            start, end = match.span()
            if end > start and all(end <= s or start >= e for s, e, _, _ in taken):
                left_out = left_out or rename.replacement == UNUSED
                taken.append((start, end, rename.replaced(match), rename.line))
            elif end > start:
                lines.late.add(rename.line)
    used = tuple(sorted({line for *_, line in taken}))
    return ("" if left_out else _replaced(name, taken)), used


def _replaced(name: str, taken: Iterable[tuple[int, int, str, int]]) -> str:
    new, at = "", 0
    for start, end, text, _ in sorted(taken):
        new, at = new + name[at:start] + text, end
    # An emptied segment takes its dot with it: `model -> ` drops the prefix.
    return re.sub(r"\.{2,}", ".", new + name[at:]).strip(".")


#: Lines that match nothing, of which the nearest segment is looked for: it takes its time.
_MOST_NEAREST = 20


def _dead_lines(dead: Sequence[Rename], late: set[int], names: list[str]) -> list[Problem]:
    segments = dict.fromkeys(segment for name in names for segment in name.split("."))
    problems = []
    for at, rename in enumerate(dead):
        if rename.line in late:
            why = "matches only what an earlier line has renamed; put it first or remove it"
        else:
            near = _nearest(rename, segments) if at < _MOST_NEAREST else ""
            why = f"matches none of the {len(names)} source names{near}"
        problems.append(Problem(rename.line, f"{rename.pattern!r} (read as a {rename.kind}) {why}"))
    return problems


def _nearest(rename: Rename, segments: Mapping[str, None]) -> str:
    """What may be meant by the first segment that no name has."""
    *_, last = parts = rename.pattern.split(".")
    unknown = (part for part in parts if part and "*" not in part and part not in segments)
    return did_you_mean(next(unknown, last), segments)


def parse_renames(text: str, path: str = "<renames>") -> Renames:
    """Read rename lines; raises :class:`RenameError` with every line that cannot be read."""
    rows = []
    problems: list[Problem] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        pattern, arrow, replacement = (part.strip() for part in line.partition("->"))
        if arrow:
            rows.append((number, pattern, replacement))
        else:
            problems.append(Problem(number, f"expected 'pattern -> replacement', found {line!r}"))
    return _read_rows(rows, path, problems)


def _read_rows(
    rows: Iterable[tuple[int, str, str]], path: str, problems: Sequence[Problem] = ()
) -> Renames:
    """(line, left side, right side) -> Renames; ``problems`` are raised with those found here."""
    lines: list[Rename] = []
    recipes: list[Recipe] = []
    found = list(problems)
    for number, left, right in rows:
        if is_recipe(left, right):
            recipe = read_recipe(number, left, right)
            if isinstance(recipe, Recipe):
                recipes.append(recipe)
            else:
                found.append(recipe)
            continue
        rename = Rename(number, left, right)
        if problem := _unreadable(rename):
            found.append(Problem(number, problem))
        lines.append(rename)
    if found:
        raise RenameError(path, found)
    return Renames(path, tuple(lines), tuple(recipes))


def _unreadable(rename: Rename) -> str | None:
    if not rename.pattern:
        return "nothing stands before '->'; expected a name, a glob or a regular expression"
    if rename.kind != "regex":
        return _lost_star(rename)
    try:
        # sub() reads its template before it looks for a match.
        re.compile(rename.regex).sub(rename.replacement, "")
    except (re.error, IndexError) as error:
        return f"{rename.pattern!r} -> {rename.replacement!r} is not a regular expression: {error}"
    return None


def _lost_star(rename: Rename) -> str | None:
    stars, carried = rename.pattern.count("*"), rename.replacement.count("*")
    if stars == carried or rename.replacement == UNUSED:
        return None
    return (
        f"{rename.pattern!r} has {stars} '*' and its replacement {carried}: each * is one "
        "segment that is carried over; write a regular expression with ( ) for more"
    )


def _from_mapping(renames: Mapping[str, str]) -> Renames:
    """Lines count from 1 in the mapping's order."""
    rows = [(line, old, new) for line, (old, new) in enumerate(renames.items(), start=1)]
    return _read_rows(rows, "<renames>")


RenamesLike = Renames | str | Path | Mapping[str, str] | None


def read_renames(renames: RenamesLike) -> Renames | None:
    """A path, the text itself (it has an arrow), a mapping of patterns, or Renames -> Renames.

    Raises :class:`RenameError` for a file that cannot be opened or lines that cannot be read.
    """
    if renames is None or isinstance(renames, Renames):
        return renames
    if isinstance(renames, Mapping):
        return _from_mapping(renames)
    if isinstance(renames, str) and "->" in renames:
        return parse_renames(renames)
    path = Path(renames)
    try:
        return parse_renames(path.read_text(encoding="utf-8"), str(renames))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RenameError(str(renames), [Problem(0, f"cannot be read: {why}")]) from error
