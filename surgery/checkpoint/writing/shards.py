"""A draft in several safetensors files with an index, as transformers and diffusers read them:
``model-00001-of-00003.safetensors`` and ``model.safetensors.index.json``.

Files that are there already are never overwritten: the index is written last and says which
files count, so whoever looks sees the old set whole or the new one. What the new index no longer
names is removed after that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path

from surgery.checkpoint.formats.shard_set import INDEX_SUFFIX
from surgery.checkpoint.source import denied
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.values import Values
from surgery.errors import CheckpointError, SurgeryError
from surgery.wording import printable

#: All are open and locked until the last is written.
_MOST_SHARDS = 1000

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_size(size: int | str) -> int:
    """Bytes of ``"5GB"``, ``"500 MiB"`` or a number; 1 GB is 10^9 bytes, 1 GiB is 2^30.

    Raises SurgeryError for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(str(size).strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    nbytes = int(Decimal(match[1]) * unit) if match and unit else 0
    if not nbytes:
        raise SurgeryError(
            f"{size!r} is no size; expected bytes, or a number with MB, GB, MiB, GiB"
        )
    return nbytes


def plan_shards(draft: Draft, path: Path, most: int) -> dict[Path, Draft]:
    """Cut ``draft`` into files of at most ``most`` bytes of values: ``path`` where one is enough.

    Tensors stay in their order, and a tensor larger than that has a file of its own. Names of
    one tensor stay together. The first file holds the metadata and the versions of all. Raises
    CheckpointError for more files than a process may usually hold open.
    """
    parts = _parts(draft, most)
    if len(parts) < 2:
        return {path: draft}
    if len(parts) > _MOST_SHARDS:
        raise CheckpointError(
            f"{printable(path)}: {len(parts):,} shards of at most {most:,} bytes, and no more than "
            f"{_MOST_SHARDS:,} are written; choose a larger size"
        )
    parts[0] = replace(parts[0], versions=draft.versions, metadata=draft.metadata)
    return dict(zip(_free_names(path, len(parts)), parts, strict=True))


def index_of(path: Path) -> Path:
    """The index of the set that would be written for ``path``."""
    return path.with_name(path.name + INDEX_SUFFIX)


def index_text(shards: Mapping[Path, Draft]) -> str:
    """What the index says of these files: which has which tensor."""
    index = {
        "metadata": {"total_size": sum(shard.nbytes for shard in shards.values())},
        "weight_map": {name: file.name for file, shard in shards.items() for name in shard.specs},
    }
    return json.dumps(index, indent=2) + "\n"


def existing(path: Path) -> tuple[Path, ...]:
    """The index and the shards of a set that is there, complete or not; the index first."""
    index = index_of(path)
    pattern = re.compile(
        rf"{re.escape(path.stem)}-\d{{5}}-of-\d{{5}}(\.\d+)?{re.escape(path.suffix)}"
    )
    try:
        found = sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))
    except OSError as error:
        raise denied(path.parent, error, "cannot be listed") from error
    return ((index,) if index.exists() else ()) + tuple(found)


def _parts(draft: Draft, most: int) -> list[Draft]:
    """In one pass over the names: there may be as many parts as there are tensors."""
    home: dict[str, int] = {}
    at = size = 0
    for name, spec in draft.specs.items():
        if size and size + spec.nbytes > most:
            at, size = at + 1, 0
        home[name] = at
        size += spec.nbytes
    values: list[dict[str, Values]] = [{} for _ in range(at + 1)]
    ties: list[list[tuple[str, ...]]] = [[] for _ in range(at + 1)]
    for name, value in draft.values.items():
        values[home[draft.aliases.get(name, name)]][name] = value
    for names in draft.ties:
        ties[home[names[0]]].append(names)
    return [Draft(held, tuple(tied)) for held, tied in zip(values, ties, strict=True)]


def _free_names(path: Path, number: int) -> list[Path]:
    """The usual names, or where files are called so, the next ones that are free.

    The mark of those stands where no stem ends: ``llama-3.1`` beside ``llama-3`` is another set.
    """
    for generation in count(1):
        mark = f".{generation}" if generation > 1 else ""
        files = [
            path.with_name(f"{path.stem}-{i:05d}-of-{number:05d}{mark}{path.suffix}")
            for i in range(1, number + 1)
        ]
        if not any(file.exists() for file in files):
            return files
    raise AssertionError("there is always a next number")
