"""What a report is: a headline, tables and notes, and how they are told as plain text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, and whether its cells are numbers (set to the right, never folded).

    A ``spare`` column is left out on a terminal that is too narrow for all.
    """

    title: str
    number: bool = False
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under columns. ``tone`` says what the rows mean, for colour on a terminal."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Report:
    """A headline, tables, and notes that the reader should not miss."""

    headline: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The report as plain text: aligned columns, no colour, no control characters."""
        parts = ["\n".join(map(printable, self.headline))]
        parts += [_plain_table(table) for table in self.tables if table.rows]
        if self.notes:
            parts.append("\n".join(f"note: {printable(note)}" for note in self.notes))
        return "\n\n".join(parts)

    def __rich__(self) -> RenderableType:
        from surgery.report.drawing import drawn

        return drawn(self)


def printable(text: str) -> str:
    """The text with control characters (terminal escapes in a stranger's names) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain_table(table: Table) -> str:
    rows = [tuple(column.title for column in table.columns), *table.rows]
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [_width(cells) for cells in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([printable(table.title), *(f"  {line}" for line in lines)])


#: A cell that is wider sticks out of its column: all others padded to it would fill the memory.
_WIDEST = 400


def _width(cells: Iterable[str]) -> int:
    return max(width for width in map(len, cells) if width <= _WIDEST)


def pairs_table(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    return Table(title, (Column("name"), Column("value")), tuple(pairs))
