"""What a text is: a plain name, a glob or a regular expression, and whether it can be read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from surgery.errors import SelectorError
from surgery.patterns.globs import SEGMENT_END, glob_to_regex, has_wildcards
from surgery.wording import shortened

PatternKind = Literal["name", "glob", "regex", "type", "state", "class"]

_REGEX_CHARACTERS = frozenset("^$\\()|+")
_PLAIN = re.compile(r"[\w\-]+(\.[\w\-]+)*")
#: They stand for nothing that a person sees, and often get in by accident.
_UNSEEN = re.compile("[\x00\ud800-\udfff\ufeff]")
#: More than any name is worth; a plain name may be longer.
_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text that means names, or one word of a selector, and how it was read.

    ``body`` is what is compared: the name, the glob, what stands between the slashes, the glob
    over class names of a type, the transfer's word of a state, the word of a class. ``guessed``
    marks bare text that was taken for a regular expression by its characters, ``negated`` what a
    ``!`` leaves out.
    """

    text: str
    kind: PatternKind
    body: str
    guessed: bool = False
    negated: bool = False


def read_pattern(text: str) -> Pattern:
    """Decide what a text is. Raises SelectorError where it cannot be read as that.

    >>> [read_pattern(text).kind for text in ("layer1", "layer[34].*", "/^layer[34]/", "a|b")]
    ['name', 'glob', 'regex', 'regex']
    """
    check_text(text)
    if text.startswith("/"):
        return _read_regex(text, _between_slashes(text))
    if _REGEX_CHARACTERS & set(text):
        return _read_regex(text, text)
    if "{" in text or "}" in text:
        raise SelectorError(
            f"{shortened(text)!r}: braces belong to a /regular expression/; a glob has [34]"
        )
    if not has_wildcards(text):
        return Pattern(text, "name", text)
    _check_length(text)
    glob_to_regex(text)
    return Pattern(text, "glob", text)


def is_plain(name: str) -> bool:
    """Whether a name can be written down as it is, wherever lines of text have names."""
    return _PLAIN.fullmatch(name) is not None


def names_meant(pattern: Pattern, names: Iterable[str], *, end: str = SEGMENT_END) -> set[str]:
    """The names that a pattern means from their root on, down to ``end``; a regular expression is
    found anywhere in them.

    Raises SelectorError where it takes too long for all of them together.
    """
    if pattern.kind == "regex":
        from surgery.patterns.regexes import BoundedRegex

        return set(filter(BoundedRegex(pattern.body, pattern.text).found_in, names))
    return set(filter(re.compile(glob_to_regex(pattern.body, end=end)).match, names))


def check_text(text: object) -> None:
    """Raise SelectorError for what is no text, and for characters that nobody meant to write."""
    if not isinstance(text, str):
        raise SelectorError(f"a pattern is text, not {shortened(repr(text))}")
    if unseen := _UNSEEN.search(text):
        raise SelectorError(
            f"{shortened(text)!r} has the character {unseen[0]!r} at position {unseen.start()}, "
            "which no pattern can have; a /regular expression/ can, as an escape"
        )


def end_of_regex(text: str, start: int) -> int:
    """Past the ``/`` that closes the one at ``start``; the end of the text where none does."""
    closing = re.compile(r"(?:[^/\\]|\\.)*+/", re.DOTALL).match(text, start + 1)
    return closing.end() if closing else len(text)


def _between_slashes(text: str) -> str:
    if len(text) < 2 or not text.endswith("/") or end_of_regex(text, 0) != len(text):
        raise SelectorError(f"{shortened(text)!r} starts a /regular expression/ that no / ends")
    if len(text) == 2:
        raise SelectorError("'//' is an empty regular expression")
    return text[1:-1]


def _read_regex(text: str, body: str) -> Pattern:
    _check_length(text)
    from surgery.patterns.regexes import BoundedRegex  # its library takes a while to import

    BoundedRegex(body, text)
    return Pattern(text, "regex", body, guessed=body is text)


def _check_length(text: str) -> None:
    if len(text) > _LONGEST:
        raise SelectorError(
            f"{shortened(text)!r} has {len(text):,} characters; a glob or a regular expression "
            f"has {_LONGEST:,} at most"
        )
