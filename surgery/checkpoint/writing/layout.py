"""What a format makes of a draft: a size that is known before, and a way of writing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from surgery.checkpoint.writing.moving import Target


@dataclass(frozen=True, slots=True)
class Layout:
    """A file of ``nbytes`` bytes; ``write`` puts all of them where they belong."""

    nbytes: int
    write: Callable[[Target], None]
