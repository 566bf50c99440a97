r"""The rename file: ``pattern -> replacement`` a line, text -> :class:`Renames` -> new names.

::

    # comments and blank lines are free
    encoder -> backbone                    # whole segments, anywhere in the name
    layers.*.attn -> blocks.*.attention    # each * is one segment, carried over
    ^blocks_(\d+)\. -> blocks.\1.            # a regular expression, with its groups

All lines look at the name as it stands in the file, so two lines can swap two names; where two
lines want the same text, the earlier has it. A match starts and ends at a dot or at an end of
the name: ``layer1`` never touches ``layer10``, and ``mlp`` never ``cpb_mlp``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import Problem, RenameError, did_you_mean
from surgery.wrappers import unwrap_name

_PLAIN = re.compile(r"[\w.\-]*\Z")
_GLOB = re.compile(r"[\w.\-*]*\Z")


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

    @property
    def template(self) -> str:
        """The replacement as :meth:`re.Match.expand` wants it."""
        if self.kind == "regex":
            return self.replacement
        parts = self.replacement.replace("\\", "\\\\").split("*")
        return parts[0] + "".join(rf"\g<{i}>{part}" for i, part in enumerate(parts[1:], start=1))


def _glob_to_regex(pattern: str) -> str:
    return r"([^.]+)".join(re.escape(part) for part in pattern.split("*"))


@dataclass(frozen=True, slots=True)
class Renames:
    """The lines of one rename file, in order. ``path`` is what errors call it."""

    path: str
    lines: tuple[Rename, ...]

    def apply(self, names: Iterable[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Every name to its new name and the lines that made it.

        Raises :class:`RenameError` for lines that match nothing, all of them at once.
        """
        names = list(names)
        compiled = [(rename, re.compile(rename.regex)) for rename in self.lines]
        renamed = {name: _rename(name, compiled) for name in names}
        used = Counter(line for _, lines in renamed.values() for line in lines)
        dead = [rename for rename in self.lines if not used[rename.line]]
        if dead:
            raise RenameError(self.path, _dead_lines(dead, compiled, names))
        return renamed


def _rename(
    name: str, compiled: Sequence[tuple[Rename, re.Pattern[str]]]
) -> tuple[str, tuple[int, ...]]:
    new, lines = _substitute(name, compiled)
    clean = unwrap_name(name)
    if not lines and clean != name:
        new, lines = _substitute(clean, compiled)
    return (new, lines) if lines else (name, ())


def _substitute(
    name: str, compiled: Sequence[tuple[Rename, re.Pattern[str]]]
) -> tuple[str, tuple[int, ...]]:
    """All matches that do not overlap an earlier line's, replaced at once."""
    taken: list[tuple[int, int, str, int]] = []
    for rename, regex in compiled:
        for match in regex.finditer(name):
            start, end = match.span()
            if end > start and all(end <= s or start >= e for s, e, _, _ in taken):
                taken.append((start, end, match.expand(rename.template), rename.line))
    new, at = "", 0
    for start, end, text, _ in sorted(taken):
        new, at = new + name[at:start] + text, end
    # An emptied segment takes its dot with it: `model -> ` drops the prefix.
    new = re.sub(r"\.{2,}", ".", new + name[at:]).strip(".")
    return new, tuple(sorted({line for *_, line in taken}))


def _dead_lines(
    dead: Sequence[Rename], compiled: Sequence[tuple[Rename, re.Pattern[str]]], names: list[str]
) -> list[Problem]:
    regexes = dict(compiled)
    segments = dict.fromkeys(segment for name in names for segment in name.split("."))
    problems = []
    for rename in dead:
        if any(regexes[rename].search(name) for name in names):
            why = "matches only what an earlier line has renamed; put it first or remove it"
        else:
            near = did_you_mean(rename.pattern.rpartition(".")[2], segments)
            why = f"matches none of the {len(names)} source names{near}"
        problems.append(Problem(rename.line, f"{rename.pattern!r} (read as a {rename.kind}) {why}"))
    return problems


def parse_renames(text: str, path: str = "<renames>") -> Renames:
    """Read rename lines; raises :class:`RenameError` with every line that cannot be read."""
    lines: list[Rename] = []
    problems: list[Problem] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        pattern, arrow, replacement = (part.strip() for part in line.partition("->"))
        rename = Rename(number, pattern, replacement)
        problem = (
            _unreadable(rename) if arrow else f"expected 'pattern -> replacement', found {line!r}"
        )
        if problem:
            problems.append(Problem(number, problem))
        else:
            lines.append(rename)
    if problems:
        raise RenameError(path, problems)
    return Renames(path, tuple(lines))


def _unreadable(rename: Rename) -> str | None:
    if not rename.pattern:
        return "nothing stands before '->'; expected a name, a glob or a regular expression"
    if rename.kind != "regex":
        stars, carried = rename.pattern.count("*"), rename.replacement.count("*")
        if stars != carried:
            return (
                f"{rename.pattern!r} has {stars} '*' and its replacement {carried}: each * is one "
                "segment that is carried over; write a regular expression with ( ) for more"
            )
    try:
        # sub() reads its template before it looks for a match.
        re.compile(rename.regex).sub(rename.template, "")
    except (re.error, IndexError) as error:
        return f"{rename.pattern!r} -> {rename.replacement!r} is not a regular expression: {error}"
    return None


def _from_mapping(renames: Mapping[str, str]) -> Renames:
    """Lines count from 1 in the mapping's order."""
    lines = [Rename(line, old, new) for line, (old, new) in enumerate(renames.items(), start=1)]
    problems = [Problem(line.line, why) for line in lines if (why := _unreadable(line))]
    if problems:
        raise RenameError("<renames>", problems)
    return Renames("<renames>", tuple(lines))


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
