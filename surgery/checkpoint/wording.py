"""How names and sizes from a file appear in a message: on one line, and never as commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def shown(text: object) -> str:
    r"""``text`` as it is where every character prints, else with escapes.

    Names come from files, and a terminal obeys what it prints.

    >>> shown("layer1.weight"), shown("layer\x1b[31m")
    ('layer1.weight', 'layer\\x1b[31m')
    """
    text = str(text)
    return text if text.isprintable() else repr(text)[1:-1]


def listed(names: Iterable[str], limit: int = 8) -> str:
    """``'a, b, c and 4 more'``."""
    shown_names = [shown(name) for name in names]
    more = len(shown_names) - limit
    return ", ".join(shown_names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def count(number: int, noun: str) -> str:
    """``'1 tensor'``, ``'1,204 tensors'``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_of(lines: Sequence[str], limit: int = 20) -> list[str]:
    """The first lines of a detail, and how many more there are."""
    more = len(lines) - limit
    return [*lines[:limit], *([f"and {more:,} more"] if more > 0 else [])]
