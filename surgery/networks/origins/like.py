"""``like:file`` or ``like:file#key``: another checkpoint's names and shapes, and its values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from surgery.checkpoint import Checkpoint, open_checkpoint, read_contents
from surgery.errors import ArchitectureError
from surgery.networks.origins.origin import Origin


class Like(Origin):
    """A file. There is no code, so no model can be built."""

    name = "like"
    form = "like:file"

    def stem(self, name: str) -> str:
        return f"like-{_file_and_key(name)[0].stem}"

    def factory(self, name: str) -> Any:
        raise ArchitectureError(
            f"{self.label(name)} is a list of names and shapes; a model cannot be built from it"
        )

    def opened(self, name: str) -> Checkpoint:
        """The file. Raises ArchitectureError where it holds several state dicts."""
        path, key = _file_and_key(name)
        states = [] if key else [state.key for state in read_contents(path).state_dicts]
        if len(states) > 1:
            raise ArchitectureError(
                f"{self.label(name)}: the file holds {len(states)} state dicts; choose one with "
                f"like:{path}#KEY",
                [f"like:{path}#{state or '.'}" for state in states],
            )
        return open_checkpoint(path, key=key)


def _file_and_key(name: str) -> tuple[Path, str | None]:
    """The two sides of ``file#key``; a file whose own name has a ``#`` is that file."""
    path, _, key = name.partition("#")
    if not key or os.path.exists(name):
        return Path(name), None
    return Path(path), key
