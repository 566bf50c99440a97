"""Word lists of the structure matcher, emptied one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from surgery.matching.structure import rows, words

CONCEPTS = "_CONCEPT"
#: Every word list, and every concept of the list of concepts.
LISTS = [
    *("_FIRST", "_LAST", "_TURNING", "_STACK", "_END", "_ATTENTION", "_BLOCKS"),
    *("_BESIDE_BLOCKS", "_GATES", "_NORM", "_WITHIN", CONCEPTS),
    *(f"{CONCEPTS}:{concept}" for concept in dict.fromkeys(words._CONCEPT.values())),
]


@contextmanager
def without(name: str) -> Iterator[None]:
    """Leave a word list out, or one concept."""
    attribute, _, concept = name.partition(":")
    kept = getattr(words, attribute)
    left = {word: of for word, of in kept.items() if of != concept} if concept else type(kept)()
    setattr(words, attribute, left)
    _forget()
    try:
        yield
    finally:
        setattr(words, attribute, kept)
        _forget()


def _forget() -> None:
    for function in (*vars(words).values(), *vars(rows).values()):
        if hasattr(function, "cache_clear"):
            function.cache_clear()
