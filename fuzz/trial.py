"""One file held against what is promised of every file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from surgery.checkpoint import Checkpoint, open_checkpoint, read_contents
from surgery.errors import CheckpointError

#: Larger checkpoints are opened, and their values left alone.
_MOST_BYTES = 1 << 22


def try_file(path: Path) -> bool:
    """Whether the file opens. What is wrong with surgery itself escapes as another exception.

    All that the command line does with a stranger's file is done: contents, every state dict,
    every tensor, checksums, and the error's one line.
    """
    try:
        contents = read_contents(path)
    except CheckpointError as error:
        _check_wording(error)
        return False
    for key in (state.key for state in contents.state_dicts):
        _read_all(path, key)
    return True


def _read_all(path: Path, key: str | None) -> None:
    with _errors_checked():
        checkpoint = open_checkpoint(path, key="." if key is None else key)
        if sum(spec.nbytes for spec in checkpoint.specs) <= _MOST_BYTES:
            _read_values(checkpoint)


def _read_values(checkpoint: Checkpoint) -> None:
    with _errors_checked():
        checkpoint.verify()
    for spec, tensor in zip(checkpoint.specs, checkpoint.state_dict().values(), strict=True):
        assert (tuple(tensor.shape), str(tensor.dtype)) == (spec.shape, f"torch.{spec.dtype}")


@contextlib.contextmanager
def _errors_checked() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        _check_wording(error)


def _check_wording(error: CheckpointError) -> None:
    assert error.message, "an error without a word"
    assert "\n" not in error.message, "the cause takes more than one line"
