"""A checkpoint in several files, as an index names them: ``{"weight_map": {name: file}}``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

from surgery.checkpoint.contents.finding import texts
from surgery.checkpoint.formats.json_text import parse_json
from surgery.checkpoint.holding import Contents, StateDict
from surgery.checkpoint.places import Place
from surgery.checkpoint.source import Reader
from surgery.errors import CheckpointError, did_you_mean
from surgery.wording import first_lines, listed, printable

#: Of an index of shards.
INDEX_SUFFIX = ".index.json"

_LARGEST_INDEX = 1 << 28
_MOST_PROBLEMS = 8


def read_index(reader: Reader, open_shard: Callable[[Path], Contents]) -> Contents:
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
    opened = {file: open_shard(folder / file) for file in files}
    shards = {file: _only_state(contents) for file, contents in opened.items()}
    places = _places(weight_map, shards)
    if problems := _disagreements(weight_map, shards, places):
        raise CheckpointError(f"{label}: the index and its shards disagree", problems)
    formats = {contents.format for contents in opened.values()}
    return Contents(
        reader.source,
        f"sharded {formats.pop() if len(formats) == 1 else 'files'}",
        (_joined(places, shards, metadata),),
        opaque=tuple(dict.fromkeys(name for c in opened.values() for name in c.opaque)),
    )


def index_beside(path: Path) -> Path | None:
    """The index in whose set the file is one shard, by their names; None where there is none."""
    indexes = path.parent.glob(f"*{INDEX_SUFFIX}")
    return next((index for index in sorted(indexes) if is_shard(path, index)), None)


def is_shard(file: Path, index: Path) -> bool:
    """By its name: ``model-00001-of-00002.safetensors``, and not ``model-best.safetensors``."""
    stem = index.name.removesuffix(INDEX_SUFFIX).rpartition(".")[0]
    return re.match(rf"{re.escape(stem)}-\d+-of-\d+", file.name) is not None


def _parse(reader: Reader) -> tuple[dict[str, str], dict[str, str]]:
    label, size = reader.source.label, reader.source.size
    if size > _LARGEST_INDEX:
        raise CheckpointError(f"{label}: {size:,} bytes of JSON is no index of shards")
    try:
        index = parse_json(reader.read(0, size))
    except ValueError as error:
        raise CheckpointError(f"{label}: JSON text that cannot be read: {error}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{label}: JSON text without a weight_map, so no index of shards")
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{label}: a weight_map whose values are not file names")
    return weight_map, texts(index.get("metadata"))


def _path_problem(folder: Path, file: str) -> str | None:
    """What is wrong with a shard's path: an index may only name files below its own folder."""
    posix, windows = PurePosixPath(file), PureWindowsPath(file)
    leaves = ".." in posix.parts or posix.is_absolute() or windows.drive or "\\" in file
    if leaves or not file or "\0" in file:
        return f"the shard {printable(file)!r} is not a path below the index's folder"
    if not os.path.isfile(folder / file):
        names = [path.name for path in folder.iterdir()]
        return f"the shard {printable(file)} is missing{did_you_mean(file, names)}"
    return None


def _only_state(contents: Contents) -> StateDict:
    if len(contents.state_dicts) == 1:
        return contents.state_dicts[0]
    raise CheckpointError(
        f"{contents.source.label}: expected one state dict in a shard, "
        f"found {len(contents.state_dicts)}"
    )


def _places(weight_map: Mapping[str, str], shards: Mapping[str, StateDict]) -> dict[str, Place]:
    """What the index lists, and behind it tied names that only the shards know."""
    places = {
        name: shards[file].places[name]
        for name, file in weight_map.items()
        if name in shards[file].places
    }
    stored = set(places.values())
    for state in shards.values():
        for name, place in state.places.items():
            if name not in weight_map and place in stored:
                places[name] = place
    return places


def _disagreements(
    weight_map: Mapping[str, str], shards: Mapping[str, StateDict], places: Mapping[str, Place]
) -> list[str]:
    held: dict[str, list[str]] = {}
    for file, state in shards.items():
        for name in (*state.places, *(name for name, _ in state.unreadable)):
            held.setdefault(name, []).append(file)
    problems = []
    for name in dict.fromkeys((*weight_map, *held)):
        said, found = weight_map.get(name), held.get(name, [])
        is_tied = said is None and name in places and len(found) == 1
        if found != [said] and not is_tied:
            said = f"in {printable(said)}" if said else "nowhere"
            where = listed(found) or "none of them"
            problems.append(f"{printable(name)}: {said} by the index, it is in {where}")
    return first_lines(problems, _MOST_PROBLEMS)


def _joined(
    places: Mapping[str, Place], shards: Mapping[str, StateDict], metadata: Mapping[str, str]
) -> StateDict:
    states = shards.values()
    kept = {key: text for state in states for key, text in state.metadata.items()} | dict(metadata)
    return StateDict(
        None,
        places,
        tuple(pair for state in states for pair in state.unreadable),
        tuple(name for state in states for name in state.not_tensors),
        {path: version for state in states for path, version in state.versions.items()},
        {key: text for key, text in kept.items() if key not in places},
    )
