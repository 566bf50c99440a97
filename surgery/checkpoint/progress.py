"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the number of bytes that have just been read, compared or written.
Progress = Callable[[int], None]


def unwatched(_: int) -> None:
    """The progress of work that nobody watches."""
