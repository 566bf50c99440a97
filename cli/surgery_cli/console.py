"""stdout carries the result alone; progress, warnings and errors go to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from surgery.report.tables import Report


def print_report(report: Report) -> None:
    """Tables on a terminal, plain aligned text in a pipe."""
    if not sys.stdout.isatty():
        click.echo(report.text())
        return
    from rich.console import Console

    Console(highlight=False).print(report)


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object in ASCII, so that no name can drive a terminal or fail to be encoded.

    JSON has no infinity and no NaN: null stands for them.
    """
    click.echo(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_note(text: str) -> None:
    """A line on stderr that is not part of the result."""
    from surgery.report.tables import printable

    click.echo(printable(text), err=True)


def note_shard(path: Path) -> None:
    """Say so where a file that was named is one shard of a set: most tensors are elsewhere."""
    from surgery.checkpoint.index import index_beside

    if path.is_file() and (index := index_beside(path)):
        print_note(f"note: {path} is one shard of a set; {index} has all of it")


def print_written(files: Sequence[Path]) -> None:
    """Which files a command wrote, and how large they are; of shards, their index and the sum."""
    nbytes = sum(file.stat().st_size for file in files)
    parts = f" and {len(files) - 1} shards" if len(files) > 1 else ""
    print_note(f"wrote {files[-1]}{parts} ({nbytes:,} bytes)")


def print_error(error: Exception | str, *, bug: bool = False) -> None:
    """The cause in one line, details indented below it, all on stderr."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    kind, message, details = _told(error)
    prefix = click.style("error:", fg="red", bold=True) if _wants_colour() else "error:"
    click.echo(f"{prefix} {message}", err=True)
    for line in details:
        click.echo(f"  {line}", err=True)
    if bug:
        click.echo(f"  this is a bug in surgery ({kind}); --debug shows where", err=True)


def _wants_colour() -> bool:
    """Nobody said no; what is no terminal gets none in any case. See https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_error_json(error: Exception | str, *, bug: bool = False) -> None:
    """The error as the one JSON object on stdout."""
    if isinstance(error, SurgeryError):
        print_json({"error": error.to_dict()})
        return
    kind, message, details = _told(error)
    print_json({"error": {"kind": kind, "message": message, "details": details, "bug": bug}})


def _told(error: Exception | str) -> tuple[str, str, list[str]]:
    from surgery.report.tables import printable

    if isinstance(error, str):
        return "Interrupted", error, []
    if isinstance(error, SurgeryError):
        message, details = error.message, list(error.details)
    elif isinstance(error, click.ClickException):
        message, details = error.format_message(), []
    else:
        message, details = str(error) or type(error).__name__, []
    return type(error).__name__, printable(message), [printable(line) for line in details]


def abandon_stdout() -> None:
    """Whatever Python still holds for stdout has nowhere to go; nor shall it complain at exit."""
    with suppress(OSError, ValueError):  # in memory, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress(text: str) -> Iterator[None]:
    """A spinner on stderr while long work runs; nothing where stderr is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    from surgery.report.tables import printable

    with Console(stderr=True).status(Text(printable(text))):
        yield


@contextmanager
def byte_progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that hears of bytes as they are done; nothing where it is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from surgery.report.tables import printable

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(text), total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def count_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that hears how many are done, and of how many; nothing where it is no
    terminal.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from surgery.report.tables import printable

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, Remaining(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(text), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
