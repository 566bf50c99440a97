"""The files among what ``transfer=`` was given, opened."""

from __future__ import annotations

from pathlib import Path


def opened(transfer: object) -> object:
    """Paths as checkpoints, alone or in a list or tuple; everything else as it is.

    Raises :class:`~surgery.errors.CheckpointError` for a file that cannot be read.
    """
    if isinstance(transfer, (list, tuple)):
        return [opened(part) for part in transfer]
    if isinstance(transfer, (str, Path)):
        from surgery.checkpoint import open_checkpoint

        return open_checkpoint(transfer)
    return transfer
