"""Regular expressions that a person wrote: checked when they are read, bounded when they run.

Some take a time that doubles with each character of a name (``(x+x+)+y``), and no look at one tells
which. The ``regex`` package looks at a clock while it matches. It is imported with this module,
which nothing imports before there is a regular expression.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

import regex

from surgery.errors import SelectorError
from surgery.wording import shortened

#: Seconds of one thread for all names together, and what each name adds: many may come.
SECONDS, _EACH = 0.5, 20e-6
#: Brackets within brackets. The compiler calls itself for each.
_DEEPEST = 40
#: Characters that an expression needs at least, which is what its compiled form takes.
_LARGEST = 100_000

_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]|(?P<open>\()|(?P<close>\))|\{(?P<count>[0-9]+)[^{}]*\}|.",
    re.DOTALL,
)
_POSITION = re.compile(r"(?<= at position )[0-9]+")
Found = TypeVar("Found")


class BoundedRegex:
    """One run of an expression over any number of names, in a time that is bounded for all.

    ``body`` is all of ``text`` but its slashes; a match lies between ``begin`` and ``end``. Raises
    SelectorError for what cannot be compiled, with positions in ``text``, and past the time, with
    the name that it was stuck on.
    """

    def __init__(self, body: str, text: str, *, begin: str = "", end: str = "") -> None:
        _check_size(body, text)
        try:
            self._compiled = regex.compile(body)
        except regex.error as error:
            slash = len(text) > len(body)
            why = _POSITION.sub(lambda found: str(int(found[0]) + slash), str(error), count=1)
            raise _unreadable(text, why) from None
        except (ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise _unreadable(text, str(error) or "it is too large") from None
        if begin or end:
            # A comment of a verbose one would take in what follows.
            line = "\n" if self._compiled.flags & regex.VERBOSE else ""
            self._compiled = regex.compile(f"{begin}(?:{body}{line}){end}")
        self._text = text
        self._left = SECONDS

    def check_template(self, template: str) -> None:
        r"""Raise SelectorError unless ``\1`` and ``\g<name>`` in ``template`` are groups of it.

        The library reads a template when it has a match; ``re`` does at once, given the same
        groups.
        """
        names = {number: name for name, number in self._compiled.groupindex.items()}
        numbers = range(1, self._compiled.groups + 1)
        groups = (f"(?P<{names[n]}>)" if n in names else "()" for n in numbers)
        try:
            re.compile("".join(groups)).sub(template, "")
        except (re.error, IndexError) as error:
            raise SelectorError(
                f"{shortened(template)!r} is no replacement for {shortened(self._text)!r}: {error}"
            ) from None

    def found_in(self, name: str) -> bool:
        """Whether it is anywhere in the name."""
        search = self._compiled.search
        return self._bounded(name, lambda left: search(name, timeout=left)) is not None

    def matches(self, name: str) -> list[regex.Match[str]]:
        """All that do not overlap."""
        return self._bounded(name, lambda left: [*self._compiled.finditer(name, timeout=left)])

    def _bounded(self, name: str, find: Callable[[float], Found]) -> Found:
        self._left = min(self._left + _EACH, SECONDS)
        started = time.thread_time()
        try:
            return find(max(self._left, _EACH))
        except (TimeoutError, MemoryError, RecursionError):
            raise SelectorError(
                f"{shortened(self._text)!r} takes more than {SECONDS:g} s and was stuck on "
                f"{shortened(name)!r}: nothing in it should match one text in several ways"
            ) from None
        finally:
            self._left -= time.thread_time() - started


def _unreadable(text: str, why: str) -> SelectorError:
    return SelectorError(f"{shortened(text)!r} is no regular expression: {why}")


def _check_size(body: str, text: str) -> None:
    """A repetition is compiled as often as it repeats at least."""
    sizes, last = [0], 0
    for part in _PART.finditer(body):
        if part["open"]:
            sizes.append(0)
        elif part["count"]:
            more = last * max(int(part["count"][:9]) - 1, 0)
            last += more
            sizes[-1] += more
        else:
            last = sizes.pop() if part["close"] and len(sizes) > 1 else 1
            sizes[-1] += last
        if len(sizes) > _DEEPEST:
            raise SelectorError(
                f"{shortened(text)!r} has more than {_DEEPEST} brackets within one another"
            )
        if sizes[-1] > _LARGEST:
            raise SelectorError(
                f"{shortened(text)!r} repeats until it is longer than any name: "
                f"{_LARGEST:,} characters are the most"
            )
