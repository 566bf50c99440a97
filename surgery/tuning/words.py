"""One word of a line to a value, or what was expected instead of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from surgery.errors import SelectorError, did_you_mean

Scalar = float | int | bool | str | None
Value = Scalar | tuple[Scalar, ...]

#: Reads the text behind ``key=``, or raises :class:`WordError`.
Reader = Callable[[str], Any]


class WordError(ValueError):
    """What is wrong with the words of a line, one message each; the reader of the file adds where.

    ``args`` are the messages.
    """


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Note what is wrong with one part of a line, so that the other parts are read as well."""
    try:
        yield
    except SelectorError as error:
        problems.append(error.message)
    except WordError as error:
        problems += error.args


def number(expected: str, fits: Callable[[float], bool]) -> Reader:
    """A reader of finite numbers that fit."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and fits(value)):
            raise WordError(f"expected {expected}, found {text!r}")
        return value

    return read


from_zero = number("a finite number from 0", lambda value: value >= 0)
positive = number("a number above 0", lambda value: value > 0)
factor = number("a number above 0 and up to 1", lambda value: 0 < value <= 1)


def whole(smallest: int) -> Reader:
    """A reader of whole numbers."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= smallest):
            raise WordError(f"expected a whole number from {smallest}, found {text!r}")
        return int(text)

    return read


def one_of(*words: str) -> Reader:
    """A reader of one of a few words."""

    def read(text: str) -> str:
        if text not in words:
            hint = did_you_mean(text, words) or f"; there are {', '.join(words)}"
            raise WordError(f"found {text!r}{hint}")
        return text

    return read


def truth(text: str) -> bool:
    """A boolean in any of the spellings of :func:`parse_value`."""
    value = _CONSTANTS.get(text.lower())
    if value is None:
        raise WordError(f"expected true or false, found {text!r}")
    return value


_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("none", "null")),
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def parse_value(text: str) -> Value:
    """A number, a boolean, ``none``, several of them between commas, or a word.

    ``true``, ``yes`` and ``on`` are one boolean, ``false``, ``no`` and ``off`` the other, in any
    case. Quotes keep a word a word. Infinities and NaN are refused: no optimizer means them.

    >>> [parse_value(text) for text in ("0.9,0.999", "5", "true", "none", "'none'")]
    [(0.9, 0.999), 5, True, None, 'none']
    """
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    if "," in inner:
        return tuple(_scalar(part.strip()) for part in inner.rstrip(",").split(","))
    return _scalar(inner)


def _scalar(text: str) -> Scalar:
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if not text or _NUMBER.fullmatch(text) or text.lstrip("+-").lower() in _NO_NUMBERS:
        raise WordError(f"expected a value that is finite, found {text!r}")
    return text


_NO_NUMBERS = ("nan", "inf", "infinity")
