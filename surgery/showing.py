"""What a person looks at, and what a program gets: a value's report, and its JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar


class Shown:
    """A value whose ``str()`` is its report, and ``to_dict()`` the same for a program.

    No value knows what prints it: ``text_of`` is set where the package is put together, in
    :mod:`surgery` itself, and imports the reports when somebody looks.
    """

    __slots__ = ()

    text_of: ClassVar[Callable[[object], str]]

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON values."""
        raise NotImplementedError

    def __str__(self) -> str:
        return Shown.text_of(self)


def json_of(value: Any) -> Any:
    """The JSON values of a frozen value: what its ``to_dict`` or ``to_row`` gives, else all of its
    fields; tuples are lists, and paths are texts.

    >>> json_of({"files": (Path("new.pt"),), "broken": (("fc.weight", 2),)})
    {'files': ['new.pt'], 'broken': [['fc.weight', 2]]}
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [json_of(each) for each in value]
    if isinstance(value, Mapping):
        return {key: json_of(each) for key, each in value.items()}
    if isinstance(value, Path):
        return str(value)
    for method in ("to_row", "to_dict"):
        if hasattr(value, method):
            return getattr(value, method)()
    assert is_dataclass(value), value
    return {field.name: json_of(getattr(value, field.name)) for field in fields(value)}
