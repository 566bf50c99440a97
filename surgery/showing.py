"""What a person looks at: ``str()`` is its report, made where all reports are."""

from __future__ import annotations

import importlib
from typing import Any


class Shown:
    """A value whose ``str()`` is its report, and ``to_dict()`` the same for a program.

    No value knows what prints it: :func:`surgery.report.report_of` does by the value's type, and
    is imported when somebody looks.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON values."""
        raise NotImplementedError

    def __str__(self) -> str:
        text: str = importlib.import_module("surgery.report").report_of(self).text()
        return text
