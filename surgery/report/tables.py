"""What a report is: a headline, tables and notes; and how it is written, in a pipe and on a
terminal.

Numbers are never broken. A cell that is too wide for its column is continued on the next line:
behind a space, or behind a dot or a comma where one name alone is too wide; and of what has none,
or is longer than :data:`LONGEST_NAME` anywhere, the middle is left out. JSON has all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeAlias
from unicodedata import combining, east_asian_width

from surgery.wording import LONGEST_TEXT, first_lines, printable, shortened

#: Characters of a name in a table; whoever wants more asks for JSON.
LONGEST_NAME = 160
#: A cell that is wider sticks out of its column in a pipe: padding all others to it would
#: fill the memory.
_WIDEST = 200
#: Notes that are shown of a kind that every tensor may have.
_MOST_NOTES = 100
#: Places that a column of text needs to be readable, those that it has at least, and those that
#: the title of a narrower column of numbers gets.
_READABLE, _NARROWEST, _TITLE = 20, 8, 12

Cell: TypeAlias = str | int

#: Codes of ANSI terminals.
_BOLD, _UNDERLINED, _YELLOW = "1", "4", "33"
_TONES = {"good": "1;32", "new": "1;33", "odd": "1;35", "plain": _BOLD}


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, and whether its cells are numbers (set to the right, never broken).

    A ``spare`` column is left out on a terminal that is too narrow for all.
    """

    title: str
    number: bool = False
    spare: bool = False


#: Those of plain text are given by their titles.
Columns: TypeAlias = Sequence[Column | str]


def number(title: str, *, spare: bool = False) -> Column:
    """A column of numbers."""
    return Column(title, number=True, spare=spare)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; a cell is text or a count. ``tone`` says what the rows mean, for colour
    on a terminal.
    """

    title: str
    columns: Columns
    rows: Sequence[Sequence[Cell]]
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Report:
    """A headline, tables, and notes that the reader should not miss."""

    headline: Sequence[str]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()

    def text(self, width: int | None = None, *, colour: bool = False) -> str:
        """The report in aligned columns; ``width`` is a terminal's, without one nothing is folded.

        No character of it is a control character, but for those that ``colour`` brings.
        """
        parts = [_prose(self.headline, _BOLD, width, colour)]
        parts += ["\n".join(_table_lines(t, width, colour)) for t in self.tables if t.rows]
        if self.notes:
            notes = first_lines([f"note: {note}" for note in self.notes], _MOST_NOTES)
            parts.append(_prose(notes, _YELLOW, width, colour))
        return "\n\n".join(filter(None, parts))


def _prose(lines: Iterable[str], style: str, width: int | None, colour: bool) -> str:
    shown = map(printable, lines)
    folded = [part for line in shown for part in (_folded(line, width) if width else [line])]
    return "\n".join(_styled(line, style, colour) for line in folded)


def _styled(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour and text else text


def _table_lines(table: Table, width: int | None, colour: bool) -> Iterator[str]:
    widest = _WIDEST if width is None else LONGEST_TEXT
    cells = zip(*table.rows, strict=True)
    columns = [_cells(*each, widest) for each in zip(table.columns, cells, strict=True)]
    left_out: list[str] = []
    if width is not None:
        columns, left_out = _fitted(columns, width)
    yield _prose([table.title], _TONES[table.tone], width, colour)
    for at, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        parts = [
            [cell] if width is None else [_cut(line, c.width) for line in _folded(cell, c.width)]
            for cell, c in zip(row, columns, strict=True)
        ]
        for line in zip_longest(*parts, fillvalue=""):
            padded = (_padded(cell, c) for cell, c in zip(line, columns, strict=True))
            yield "  " + _styled("  ".join(padded).rstrip(), _UNDERLINED, colour and at == 0)
    if left_out:
        names = ", ".join(f"'{name}'" for name in left_out)
        yield f"  (too narrow to show {names}; a pipe and --json have all)"


@dataclass(frozen=True, slots=True)
class _Cells:
    """What a column shows, its title first, in ``width`` places; ``least`` is what it needs."""

    column: Column
    cells: tuple[str, ...]
    width: int
    least: int


def _cells(column: Column | str, cells: Iterable[Cell], widest: int) -> _Cells:
    column = Column(column) if isinstance(column, str) else column
    texts = [f"{cell:,}" if isinstance(cell, int) else cell for cell in cells]
    title, *texts = (printable(text, LONGEST_NAME) for text in (column.title, *texts))
    of_cells = max((wide for wide in map(_wide, texts) if wide <= widest), default=widest)
    width = max(of_cells, min(_wide(title), widest))
    least = max(of_cells, min(width, _TITLE)) if column.number else min(width, _READABLE)
    return _Cells(column, (title, *texts), width, least)


def _fitted(columns: Sequence[_Cells], room: int) -> tuple[list[_Cells], list[str]]:
    """As many columns as fit, spare ones from the right left out (their titles come second), the
    widest narrowed.
    """
    kept = list(columns)
    left_out: list[str] = []
    for column in reversed(columns):
        if sum(2 + c.least for c in kept) <= room:
            break
        if column.column.spare:
            kept = [each for each in kept if each is not column]
            left_out.insert(0, column.column.title)
    widths = [column.width for column in kept]
    floors = [c.least if c.column.number else _NARROWEST for c in kept]
    while sum(widths) + 2 * len(kept) > room:
        wider = [at for at, floor in enumerate(floors) if widths[at] > floor]
        if not wider:
            break
        widths[max(wider, key=widths.__getitem__)] -= 1
    return [replace(c, width=width) for c, width in zip(kept, widths, strict=True)], left_out


#: What is not broken while there is room for it on a line: a word, or a shape such as (64, 3).
_WORD = re.compile(r"(?:\([\d, ]*\)|\S)+\s*|\s+")
#: Where one is too long, its parts: ranges such as 0..11 stay whole, too.
_PIECE = re.compile(r"(?:[^.,]|\.\.)+[.,]?\s*|[.,]")


def _folded(text: str, width: int) -> list[str]:
    """The text on as few lines as hold it, those after the first indented."""
    if _wide(text) <= width:
        return [text]
    lines, indent = [""], "  "
    for word in _WORD.findall(text):
        whole = _wide(word.rstrip()) + len(indent) <= width
        for piece in [word] if whole else _PIECE.findall(word):
            if lines[-1].strip() and _wide(lines[-1] + piece.rstrip()) > width:
                lines.append(indent)
            lines[-1] += piece
    return [line.rstrip() for line in lines]


def _cut(text: str, width: int) -> str:
    return text if _wide(text) <= width else shortened(text, width)


def _padded(text: str, column: _Cells) -> str:
    space = " " * (column.width - _wide(text))
    return space + text if column.column.number else text + space


def _wide(text: str) -> int:
    """Places of a terminal that the text takes: Chinese has two for a character."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)
