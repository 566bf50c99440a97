"""A report's cells as rich tables, for terminals of any width."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.report.tables import Column, Report, Table, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

_TONES = {"good": "green", "new": "yellow", "odd": "magenta", "plain": "default"}

#: Cells that a column of names needs to be readable.
_READABLE = 20


def drawn(report: Report) -> RenderableType:
    """The report for a rich console: headline, tables, notes."""
    from rich.console import Group
    from rich.text import Text

    headline = Text("\n".join(map(printable, report.headline)), style="bold")
    tables = [_Drawn(table) for table in report.tables if table.rows]
    notes = [Text(f"note: {printable(note)}", style="yellow") for note in report.notes]
    return Group(headline, Text(), *tables, *notes)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A table that leaves out its spare columns where they do not fit, and says so."""

    table: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        kept = _fitting(self.table, options.max_width)
        yield _rich_table(self.table, kept)
        left_out = [c.title for at, c in enumerate(self.table.columns) if at not in kept]
        if left_out:
            columns = ", ".join(f"'{title}'" for title in left_out)
            yield f"(too narrow to show {columns}; a pipe and --json have all)\n"


def _fitting(table: Table, width: int) -> list[int]:
    """The columns to draw: all, less as many spare ones, from the right, as do not fit."""
    kept = list(range(len(table.columns)))
    for at in reversed(kept.copy()):
        if sum(_needs(table, at) for at in kept) <= width:
            break
        if table.columns[at].spare:
            kept.remove(at)
    return kept


def _needs(table: Table, at: int) -> int:
    """Cells for one column, the space beside it included."""
    column = table.columns[at]
    longest = max(len(printable(cell)) for cell in (column.title, *(row[at] for row in table.rows)))
    return 2 + (longest if column.number else min(longest, _READABLE))


def _rich_table(table: Table, kept: Sequence[int]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(printable(table.title), style=f"bold {_TONES[table.tone]}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for at in kept:
        _add_column(drawn, table.columns[at])
    for row in table.rows:
        drawn.add_row(*(_cell(row[at], table.columns[at]) for at in kept))
    return drawn


def _add_column(drawn: RichTable, column: Column) -> None:
    from rich.text import Text

    drawn.add_column(
        Text(printable(column.title)),
        justify="right" if column.number else "left",
        overflow="fold",
        no_wrap=column.number,
    )


def _cell(text: str, column: Column) -> RenderableType:
    from rich.text import Text

    return Text(printable(text)) if column.number else _Foldable(printable(text))


@dataclass(frozen=True, slots=True)
class _Foldable:
    """A cell that rich may break behind a dot or a comma too: names have no spaces."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        longest = max(map(cell_len, _pieces(self.text)), default=0)
        return Measurement(longest, cell_len(self.text)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        yield Text("\n".join(_folded_lines(self.text, options.max_width)), overflow="fold")


_PIECE = re.compile(r"[^\s.,]*[\s.,]+|[^\s.,]+")


def _pieces(text: str) -> list[str]:
    """The text cut behind every space, dot and comma (runs of them stay whole)."""
    return _PIECE.findall(text)


def _folded_lines(text: str, width: int) -> list[str]:
    """As many pieces on a line as fit in ``width`` cells; one that is wider has a line alone."""
    from rich.cells import cell_len

    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
