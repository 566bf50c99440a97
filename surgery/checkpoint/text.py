"""Text files that people write and read: one way in, one way out."""

from __future__ import annotations

import os
import re
import stat
from os import PathLike
from pathlib import Path

from surgery.checkpoint.source import kind_of
from surgery.checkpoint.writing.atomic import replacing
from surgery.errors import CheckpointError, LineError, Problem
from surgery.wording import printable

#: More than anybody writes by hand, or reads.
MOST_BYTES = 16 * 1024 * 1024

_LINE_END = re.compile(r"\r\n|\r|\n")


def read_text(
    path: str | PathLike[str], error: type[LineError] = LineError, *, hint: str = ""
) -> str:
    """The text of a regular file: UTF-8 with or without a byte-order mark, 16 MB at most.

    Raises ``error``, about the file as a whole, for anything else; nothing but a regular file is
    opened. ``hint`` ends what it says of a file that is not there.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except (OSError, ValueError) as found:
        why = (found.strerror if isinstance(found, OSError) else None) or str(found)
        why += hint if isinstance(found, FileNotFoundError) else ""
        raise error(printable(path), [Problem(0, f"cannot be read: {why}")]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as found:
        line = data.count(b"\n", 0, found.start) + 1
        why = f"cannot be read: it is not UTF-8 text, at byte {found.start} in line {line}"
        raise error(printable(path), [Problem(0, why)]) from None


def read_regular(path: str | PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a file, waiting for nobody to write them.

    Raises OSError, and ValueError for what is no regular file, is larger or is no path.
    """
    _check_kind(Path(path).stat())
    # What takes the file's place meanwhile must not make us wait.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        _check_kind(os.fstat(handle))
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise ValueError(f"it has more than {most >> 20:,} MB, the most for a text file")
    return data


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"it is {kind_of(status.st_mode)}, not a file")


def lines_of(text: str) -> list[str]:
    """The lines without their ends, as an editor counts them: only line ends separate them."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a file whole or not at all: on a full disk or a kill the old one is as it was.

    Raises CheckpointError where it cannot be written.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{printable(path)}: cannot be written: {text[error.start]!a} is no character of UTF-8"
        ) from None
    with replacing(Path(path)) as draft:
        draft.write_bytes(data)
