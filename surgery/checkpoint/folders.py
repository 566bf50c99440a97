"""Which file of a folder is its checkpoint, and which files are shards of a set, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from surgery.errors import CheckpointError
from surgery.wording import counted, printable

#: What a folder is searched for.
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pth.tar", ".pt.tar")

#: Of an index of shards.
INDEX_SUFFIX = ".index.json"


def only_checkpoint(folder: Path, may_hold_weights: Callable[[Path], bool]) -> Path:
    """The one index or checkpoint in a folder; shards belong to their index.

    A trainer's folder has its optimizer, its arguments and its random state beside the model:
    of several files, those count of which ``may_hold_weights`` says so.
    """
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    indexes = [file for file in files if file.name.endswith(INDEX_SUFFIX)]
    shards = {part for index in indexes for part in files if _is_shard(part, index)}
    single = [file for file in files if file.name.lower().endswith(SUFFIXES) and file not in shards]
    found = [*indexes, *single]
    if len(found) > 1:
        found = [*filter(may_hold_weights, found)] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(
            f"{printable(folder)}: a folder without a checkpoint",
            (f"looked for {', '.join(SUFFIXES)} and *{INDEX_SUFFIX}",),
        )
    raise CheckpointError(
        f"{printable(folder)}: a folder with {counted(len(found), 'checkpoint')}; name one of them",
        [printable(file.name) for file in found],
    )


def index_beside(path: Path) -> Path | None:
    """The index in whose set the file is one shard, by their names; None where there is none."""
    indexes = path.parent.glob(f"*{INDEX_SUFFIX}")
    return next((index for index in sorted(indexes) if _is_shard(path, index)), None)


def _is_shard(file: Path, index: Path) -> bool:
    """By its name: ``model-00001-of-00002.safetensors``, and not ``model-best.safetensors``."""
    stem = index.name.removesuffix(INDEX_SUFFIX).rpartition(".")[0]
    return re.match(rf"{re.escape(stem)}-\d+-of-\d+", file.name) is not None
