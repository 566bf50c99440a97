"""Text for people: counts and sizes, lists that end, and names that neither drive a terminal nor
fill it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

#: Characters of the longest word that a message holds whole, and of the longest text.
LONGEST_WORD, LONGEST_TEXT = 400, 2000


def printable(text: object, longest_word: int = LONGEST_WORD) -> str:
    r"""The text on one line: control characters (terminal escapes in a stranger's names) spelled
    out, the middle of what is longer than a person reads left out.

    >>> printable("layer1.\x1b[31m" + "a" * 50, 20)
    'layer1.\\x...aaaaaaaa'
    """
    text = shortened(str(text), LONGEST_TEXT)
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
        text = shortened(text, LONGEST_TEXT)
    if len(text) <= longest_word:
        return text
    return re.sub(r"\S+", lambda word: shortened(word[0], longest_word), text)


def shortened(text: str, longest: int = 100) -> str:
    """The text, its middle left out where it is longer than a person reads of a name."""
    if len(text) <= longest:
        return text
    kept = longest - 3
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def counted(count: int, thing: str) -> str:
    """``1 tensor``, ``1,024 tensors``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def listed(things: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 4 more``, each as :func:`printable` has it."""
    more = len(things) - most
    return ", ".join(map(printable, things[:most])) + (f" and {more:,} more" if more > 0 else "")


def counted_names(names: Sequence[str], thing: str = "parameter", what: str = "") -> str:
    """``5 parameters now frozen (a, b, c and 2 more)``."""
    return f"{counted(len(names), thing)}{what and f' {what}'} ({listed(names)})"


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *([f"... and {more:,} more"] if more > 0 else [])]


def first_difference(
    there: Mapping[str, object], here: Mapping[str, object], missing: str = "missing"
) -> str:
    """The first name of which two records say different things, with both; empty without one."""
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if not names:
        return ""
    name, more = names[0], f" ({len(names) - 1} more differ)" if len(names) > 1 else ""
    return f"{name} is {there.get(name, missing)} there and {here.get(name, missing)} here{more}"


def value_text(value: object) -> str:
    """A hyper-parameter, short: floats to four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return str(value)


def bytes_text(count: int) -> str:
    """Bytes in powers of 1024: ``512 B``, ``1.5 KiB``, ``2.0 GiB``."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_BYTE_UNITS))
    return f"{count / 1024**power:.1f} {_BYTE_UNITS[power - 1]}"


_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB")


def percent_text(share: float) -> str:
    """A share as per cent, cut to two digits: less than all is never 100%."""
    return "100%" if share == 1 else f"{int(share * 10_000) / 100:.2f}%"


def shape_text(shape: Iterable[int]) -> str:
    """``(64, 3, 7, 7)``, ``(64)``, ``()``."""
    return f"({', '.join(map(str, shape))})"
