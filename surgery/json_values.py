"""JSON that a file holds, read as what it has to be.

Whoever wrote the file may have put anything there: a list for a name, ``Infinity`` for a size.
Each of these takes a value as ``json.loads`` gives it and raises ValueError for every other kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgery.wording import shortened


def fields(value: object, *names: str) -> list[Any]:
    """The values that an object has under these names, in their order."""
    if not isinstance(value, dict) or not value.keys() >= set(names):
        raise ValueError(f"expected an object with {', '.join(names)}, found {_shown(value)}")
    return [value[name] for name in names]


def items(value: object) -> Sequence[Any]:
    """What a list holds."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {_shown(value)}")
    return value


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {_shown(value)}")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of strings."""
    return tuple(map(text, items(value)))


def whole_number(value: object) -> int:
    """A number without a fraction, 0 or more: a size, an index, a version."""
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number, found {_shown(value)}")
    return value


def whole_numbers(value: object) -> dict[str, int]:
    """An object of such numbers."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {_shown(value)}")
    return {name: whole_number(number) for name, number in value.items()}


def flag(value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return shortened(repr(value))
