"""A checkpoint in several files, as an index names them: ``{"weight_map": {name: file}}``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from surgery.checkpoint.holding import Holding, StateDict
from surgery.checkpoint.places import Place
from surgery.checkpoint.source import Reader
from surgery.checkpoint.wording import listed, shown
from surgery.errors import CheckpointError, did_you_mean

_LARGEST_INDEX = 1 << 28
_MOST_PROBLEMS = 8


def read_index(reader: Reader, open_shard: Callable[[Path], Holding]) -> Holding:
    """The shards' tensors as one state dict, in the order of the index.

    Raises CheckpointError with every disagreement between the index and its shards.
    """
    label = reader.source.label
    weight_map, metadata = _parse(reader)
    folder = reader.source.path.parent
    files = dict.fromkeys(weight_map.values())
    found = (problem for file in files if (problem := _path_problem(folder, file)))
    if problems := list(islice(found, _MOST_PROBLEMS)):
        raise CheckpointError(f"{label}: {problems[0]}", problems[1:])
    holdings = {file: open_shard(folder / file) for file in files}
    shards = {file: _only_state(folder / file, holding) for file, holding in holdings.items()}
    problems = list(_disagreements(weight_map, shards))
    if problems:
        raise CheckpointError(f"{label}: the index and its shards disagree", problems)
    formats = {holding.format for holding in holdings.values()}
    return Holding(
        f"sharded {formats.pop() if len(formats) == 1 else 'files'}",
        (_joined(weight_map, shards, metadata),),
        opaque=tuple(dict.fromkeys(name for h in holdings.values() for name in h.opaque)),
    )


def _parse(reader: Reader) -> tuple[dict[str, str], dict[str, str]]:
    label, size = reader.source.label, reader.source.size
    if size > _LARGEST_INDEX:
        raise CheckpointError(f"{label}: {size:,} bytes of JSON is no index of shards")
    try:
        index = json.loads(reader.read(0, size), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{label}: JSON text that cannot be read: {error}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{label}: JSON text without a weight_map, so no index of shards")
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{label}: a weight_map whose values are not file names")
    return weight_map, _texts(index.get("metadata"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"the key {shown(name)} occurs twice")
        made[name] = value
    return made


def _texts(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _path_problem(folder: Path, file: str) -> str | None:
    """What is wrong with a shard's path: an index may only name files below its own folder."""
    posix, windows = PurePosixPath(file), PureWindowsPath(file)
    leaves = ".." in posix.parts or posix.is_absolute() or windows.drive or "\\" in file
    if leaves or not file or "\0" in file:
        return f"the shard {shown(file)!r} is not a path below the index's folder"
    if not _is_file(folder / file):
        names = [path.name for path in folder.iterdir()]
        return f"the shard {shown(file)} is missing{did_you_mean(file, names)}"
    return None


def _is_file(path: Path) -> bool:
    """Whether it is one; a name that the file system cannot have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _only_state(path: Path, holding: Holding) -> StateDict:
    if len(holding.state_dicts) == 1:
        return holding.state_dicts[0]
    raise CheckpointError(
        f"{shown(path)}: expected one state dict in a shard, found {len(holding.state_dicts)}"
    )


def _disagreements(weight_map: Mapping[str, str], shards: Mapping[str, StateDict]) -> list[str]:
    held: dict[str, list[str]] = {}
    for file, state in shards.items():
        for name in (*state.places, *(name for name, _ in state.unreadable)):
            held.setdefault(name, []).append(file)
    twice = {name: files for name, files in held.items() if len(files) > 1}
    missing = [name for name, file in weight_map.items() if file not in held.get(name, ())]
    known = weight_map.keys() | _aliases(weight_map, shards).keys()
    extra = [name for name in held if name not in known]
    return [
        *(f"{shown(name)} is in {listed(files)}" for name, files in islice(twice.items(), 8)),
        *([f"not where the index says: {listed(missing)}"] if missing else []),
        *([f"in a shard but not in the index: {listed(extra)}"] if extra else []),
    ]


def _aliases(weight_map: Mapping[str, str], shards: Mapping[str, StateDict]) -> dict[str, Place]:
    """Tied names that only the shards know: an index lists what was stored."""
    listed_places = {
        state.places[name]
        for file, state in shards.items()
        for name in state.places
        if weight_map.get(name) == file
    }
    return {
        name: place
        for state in shards.values()
        for name, place in state.places.items()
        if name not in weight_map and place in listed_places
    }


def _joined(
    weight_map: Mapping[str, str], shards: Mapping[str, StateDict], metadata: Mapping[str, str]
) -> StateDict:
    places = {
        name: shards[file].places[name]
        for name, file in weight_map.items()
        if name in shards[file].places
    } | _aliases(weight_map, shards)
    states = shards.values()
    texts = {key: text for state in states for key, text in state.metadata.items()}
    return StateDict(
        None,
        places,
        tuple(pair for state in states for pair in state.unreadable),
        tuple(name for state in states for name in state.not_tensors),
        {path: version for state in states for path, version in state.versions.items()},
        {key: text for key, text in (texts | dict(metadata)).items() if key not in places},
    )
