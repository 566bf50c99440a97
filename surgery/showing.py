"""What a person looks at: ``str()`` is its report, made where all reports are."""

from __future__ import annotations

from collections.abc import Callable
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
