"""Any supported file to a :class:`Checkpoint`: what it holds at once, values on demand."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from surgery.checkpoint.contents.choosing import TOP, choose
from surgery.checkpoint.formats.recognise import recognise
from surgery.checkpoint.formats.safetensors import read_safetensors
from surgery.checkpoint.formats.shard_set import INDEX_SUFFIX, is_shard, read_index
from surgery.checkpoint.formats.torch_files import read_pickled
from surgery.checkpoint.holding import Checkpoint, Contents
from surgery.checkpoint.source import Source, denied
from surgery.errors import CheckpointError, did_you_mean
from surgery.wording import counted, printable

# What a folder is searched for.
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pth.tar", ".pt.tar")


def open_checkpoint(path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
    """Open any supported file, index of shards, or folder with exactly one of them.

    The format is recognised by content. Nothing in the file is executed, whatever it says. ``key``
    chooses among several state dicts (``"state_dict_ema"``, or ``"."`` for the outermost mapping
    where that is one itself); nothing is chosen silently. Raises CheckpointError.
    """
    contents = _read(Path(path), key)
    states = {state.key: state for state in contents.state_dicts}
    tensors = {k: len(state.places) + len(state.unreadable) for k, state in states.items()}
    chosen = states.pop(choose(contents.source.label, tensors, dict(contents.others), key))
    left = (
        (state.key or TOP, f"a state dict of {counted(len(state.places), 'tensor')}")
        for state in states.values()
    )
    return Checkpoint(
        **{each.name: getattr(chosen, each.name) for each in fields(chosen)},
        path=contents.path,
        format=contents.format,
        opaque=contents.opaque,
        others=(*left, *contents.others),
    )


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """What a file holds, without choosing. Raises CheckpointError as ``open_checkpoint`` does."""
    return _read(Path(path), None)


def _read(path: Path, key: str | None) -> Contents:
    """What the file holds that ``path`` leads to: itself, or the one checkpoint in that folder."""
    try:
        if not path.exists():
            raise _missing(path)
        if path.is_dir():
            path = _only_checkpoint(path)
    except OSError as error:
        raise denied(path, error) from error
    return _read_file(path, key)


def _read_file(path: Path, key: str | None, *, shard: bool = False) -> Contents:
    with Source.of(path).opened() as reader:
        kind = recognise(reader)
        if kind == "safetensors":
            return read_safetensors(reader)
        if kind != "index":
            return read_pickled(kind, reader, key)
        if shard:
            raise CheckpointError(f"{reader.source.label}: an index, where a shard is expected")
        return read_index(reader, lambda part: _read_file(part, None, shard=True))


def _missing(path: Path) -> CheckpointError:
    if path.is_symlink():
        return CheckpointError(f"{printable(path)}: a link to a file that does not exist")
    folder = path.parent
    if not folder.is_dir():
        return CheckpointError(
            f"{printable(path)}: no such file, and no folder {printable(folder)}"
        )
    near = did_you_mean(path.name, (entry.name for entry in folder.iterdir()))
    return CheckpointError(f"{printable(path)}: no such file{printable(near)}")


def _only_checkpoint(folder: Path) -> Path:
    """The one index or checkpoint in a folder; shards belong to their index.

    A trainer's folder has its optimizer, its arguments and its random state beside the model:
    of several files, those count that may hold weights.
    """
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    indexes = [file for file in files if file.name.endswith(INDEX_SUFFIX)]
    shards = {part for index in indexes for part in files if is_shard(part, index)}
    single = [
        file for file in files if file.name.lower().endswith(_SUFFIXES) and file not in shards
    ]
    found = [*indexes, *single]
    if len(found) > 1:
        found = [*filter(_may_hold_weights, found)] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(
            f"{printable(folder)}: a folder without a checkpoint",
            (f"looked for {', '.join(_SUFFIXES)} and *{INDEX_SUFFIX}",),
        )
    raise CheckpointError(
        f"{printable(folder)}: a folder with {counted(len(found), 'checkpoint')}; name one of them",
        [printable(file.name) for file in found],
    )


def _may_hold_weights(file: Path) -> bool:
    """Whether a state dict is in it; a file that cannot be read might have been meant."""
    try:
        return bool(_read(file, None).state_dicts)
    except CheckpointError:
        return True
