"""Text to selectors: a union of conjunctions of atoms, each of which may be left out by ``!``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from surgery.errors import SelectorError, did_you_mean
from surgery.patterns.globs import glob_to_regex
from surgery.patterns.pattern import Pattern, check_text, end_of_regex, read_pattern
from surgery.wording import shortened

#: ``:word`` to what a transfer calls it.
STATUS_WORDS: Mapping[str, str] = {
    "new": "fresh",
    "loaded": "loaded",
    "computed": "computed",
    "resized": "resized",
}

#: ``:word`` that a name, a shape and a module answer without any transfer.
CLASS_WORDS = ("all", "norm", "bias", "1d", "head", "stem")

_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


@dataclass(frozen=True, slots=True)
class Selector:
    """A selector as written, and its union of conjunctions of atoms."""

    text: str
    union: tuple[tuple[Pattern, ...], ...]

    @property
    def atoms(self) -> tuple[Pattern, ...]:
        """Every atom in writing order."""
        return tuple(atom for conjunction in self.union for atom in conjunction)

    def __str__(self) -> str:
        return self.text


def parse_selector(text: str | Selector) -> Selector:
    """Read a selector; one that was read before is returned as it is.

    >>> [(atom.text, atom.kind) for atom in parse_selector("layer4 & !:bias, /fc/").atoms]
    [('layer4', 'glob'), (':bias', 'class'), ('/fc/', 'regex')]
    """
    if isinstance(text, Selector):
        return text
    check_text(text)
    union: list[tuple[Pattern, ...]] = []
    conjunction: list[Pattern] = []
    for piece, separator in _pieces(text):
        conjunction.append(_read_atom(piece, text))
        if separator != "&":
            union.append(tuple(conjunction))
            conjunction = []
    return Selector(text.strip(), tuple(union))


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Each atom's text and the separator after it, ``""`` after the last.

    Commas and ampersands inside ``/.../`` or brackets separate nothing.
    """
    start = position = depth = 0
    begun = False
    while position < len(text):
        character = text[position]
        if character == "/" and not begun:
            position, begun = end_of_regex(text, position), True
            continue
        begun = begun or character not in " \t!"
        if character == "\\":
            position += 2
            continue
        if character in ",&" and depth == 0:
            yield text[start:position], character
            start, begun = position + 1, False
        depth = max(0, depth + (character in _OPENING) - (character in _CLOSING))
        position += 1
    yield text[start:], ""


def _read_atom(piece: str, whole: str) -> Pattern:
    bare = piece.strip()
    text = bare.removeprefix("!").lstrip()
    if text.startswith("!"):
        raise SelectorError(
            f"{shortened(piece.strip())!r} has more than one !: one leaves out, two cancel"
        )
    if not text:
        raise SelectorError(
            f"{shortened(whole.strip())!r} lacks a name, a glob or a :word beside , & or !"
        )
    return replace(_atom_of(text), negated=bare.startswith("!"))


def _atom_of(text: str) -> Pattern:
    if text.startswith(":"):
        return _read_word(text)
    if text.startswith("type:"):
        return Pattern(text, "type", _type_glob(text))
    if not text.startswith("/") and re.search(r"\s", text):
        raise SelectorError(f"{shortened(text)!r} is more than one name: put , or & between them")
    read = read_pattern(text)
    return read if read.kind == "regex" else Pattern(text, "glob", _rooted(read.body))


def _read_word(text: str) -> Pattern:
    word = text.removeprefix(":")
    if word in CLASS_WORDS:
        return Pattern(text, "class", word)
    if word in STATUS_WORDS:
        return Pattern(text, "state", STATUS_WORDS[word])
    if word == "fresh":
        raise SelectorError("':fresh' is written :new")
    known = [f":{known}" for known in (*CLASS_WORDS, *STATUS_WORDS)]
    hint = did_you_mean(text, known) or f"; there are {' '.join(known)}"
    raise SelectorError(f"{shortened(text)!r} is unknown{hint}")


def _type_glob(text: str) -> str:
    pattern = text.removeprefix("type:")
    if not pattern:
        raise SelectorError("'type:' lacks the class, as in type:BatchNorm*")
    glob_to_regex(pattern)
    return pattern


def _rooted(glob: str) -> str:
    """The glob with dots between its segments, and without what covering a subtree says."""
    if ":" in glob:
        raise SelectorError(f"{shortened(glob)!r}: only type: and the :words have a colon")
    segments = glob.replace("/", ".").split(".")
    if "" in segments:
        raise SelectorError(f"{shortened(glob)!r} has an empty segment")
    while len(segments) > 1 and re.fullmatch(r"\*{2,}", segments[-1]):
        segments.pop()
    return ".".join(segments)
