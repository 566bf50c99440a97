"""stdout carries the result alone; progress, warnings and errors go to stderr."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.errors import SurgeryError
from surgery.showing import Shown
from surgery.wording import first_lines, printable

if TYPE_CHECKING:
    from surgery.report.tables import Report

#: Lines of an error's details that a person gets; JSON has all of them.
_MOST_DETAILS = 100


def show(
    result: Shown, *, as_json: bool, beside: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """Print a result: tables as wide as the terminal, text in a pipe, or one JSON object that has
    what is known ``beside`` it, too. ``options`` are those of its report, such as ``heading``.
    """
    if as_json:
        print_json({**(beside or {}), **result.to_dict()})
        return
    from surgery.report import report_of

    print_report(report_of(result, **options))


def print_report(report: Report) -> None:
    """A report, in colour and as wide as the terminal where stdout is one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print_text(report.text(width, colour=width is not None and _wants_colour()))


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object in ASCII, so that no name can drive a terminal or fail to be encoded.

    JSON has no infinity and no NaN: null stands for them.
    """
    print_text(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_text(text: str) -> None:
    """A part of the result, on stdout."""
    click.echo(text, file=sys.stdout)


def print_note(text: str) -> None:
    """A line on stderr that is not part of the result."""
    _on_stderr(printable(text))


def _on_stderr(text: str) -> None:
    click.echo(text, file=sys.stderr, err=True)


def escape_what_cannot_be_encoded() -> None:
    r"""A name in Greek on a Latin terminal appears with escapes (``\u03b1``), not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note_shard(path: Path) -> None:
    """Say so where a file that was named is one shard of a set: most tensors are elsewhere."""
    from surgery.checkpoint.formats.shard_set import index_beside

    if path.is_file() and (index := index_beside(path)):
        print_note(f"note: {path} is one shard of a set; {index} has all of it")


def print_written(files: Sequence[Path]) -> None:
    """Which files a command wrote, and how large they are; of shards, their index and the sum."""
    nbytes = sum(file.stat().st_size for file in files)
    parts = f" and {len(files) - 1} shards" if len(files) > 1 else ""
    print_note(f"wrote {files[-1]}{parts} ({nbytes:,} bytes)")


def print_error(error: Exception | str, *, as_json: bool, bug: bool = False) -> None:
    """The error as the one JSON object on stdout; or its cause in one line on stderr, details
    indented below it.
    """
    found = _fields(error, bug)
    if as_json:
        print_json({"error": found})
        return
    message, details = found["message"], found["details"]
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _on_stderr(message)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        _on_stderr(error.ctx.get_usage())
    prefix = click.style("error:", fg="red", bold=True) if _wants_colour() else "error:"
    _on_stderr(f"{prefix} {printable(message)}")
    if bug:
        details = [*details, f"this is a bug in surgery ({found['kind']}); --debug shows where"]
    for line in first_lines(details, _MOST_DETAILS):
        print_note(f"  {line}")


def _wants_colour() -> bool:
    """Nobody said no; what is no terminal gets none in any case. See https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _fields(error: Exception | str, bug: bool) -> dict[str, Any]:
    if isinstance(error, SurgeryError):
        return error.to_dict()
    kind = "Interrupted" if isinstance(error, str) else type(error).__name__
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return {"kind": kind, "message": message or kind, "details": [], "bug": bug}


def abandon_stdout() -> None:
    """Whatever Python still holds for stdout has nowhere to go; nor shall it complain at exit."""
    with suppress(OSError, ValueError):  # in memory, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress(
    text: str, nbytes: int | None = None, *, counts: bool = False
) -> Iterator[Callable[..., None]]:
    """A spinner on stderr while long work runs; with ``nbytes`` a bar that hears of bytes as they
    are done, with ``counts`` one that hears how many things are done, and of how many. Nothing
    where stderr is no terminal.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = [bars.SpinnerColumn(), bars.TextColumn("{task.description}", markup=False)]
    if nbytes is not None:
        columns += [bars.BarColumn(), bars.DownloadColumn()]
    if counts:
        columns += [bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn()]
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(text), total=nbytes)
        if counts:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        else:
            yield lambda done: bar.advance(task, done)
