"""Any supported file to a :class:`Checkpoint`: what it holds at once, values on demand."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.checkpoint.finding import TOP, is_at
from surgery.checkpoint.holding import Holding, StateDict
from surgery.checkpoint.kinds import recognise
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.pytorch import read_stream, read_zip
from surgery.checkpoint.safetensors import read_safetensors
from surgery.checkpoint.sharded import read_index
from surgery.checkpoint.source import OneAtATime, Reader, Source
from surgery.checkpoint.wording import count, first_of, shown
from surgery.errors import CheckpointError, did_you_mean
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.verification import Verification

#: What a folder is searched for.
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pth.tar", ".pt.tar")
_INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One state dict of one file: names and shapes in memory, values still in the file.

    ``specs`` are in the file's order and have every alias of a tied tensor, which ``ties``
    groups. ``key`` is where the state dict lies in the file (``"ema.state_dict"``), None for the
    outermost mapping. ``metadata`` is text kept with it, ``versions`` the versions of
    its modules by path. ``opaque`` are globals that the file names and that were not imported;
    ``unreadable`` are tensors of a kind that is not read, each with the reason, and
    ``not_tensors`` other entries of the state dict: neither is in ``specs``. ``others`` is what
    the file holds beside this state dict, each with a short text (``("epoch", "int 37")``).

    Holds no open file, so there is nothing to close; ``with`` works all the same.
    """

    path: Path
    format: str
    key: str | None
    specs: tuple[TensorSpec, ...] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    ties: tuple[tuple[str, ...], ...] = field(repr=False)
    versions: Mapping[str, int] = field(repr=False)
    opaque: tuple[str, ...] = field(repr=False)
    unreadable: tuple[tuple[str, str], ...] = field(repr=False)
    not_tensors: tuple[str, ...] = field(repr=False)
    others: tuple[tuple[str, str], ...] = field(repr=False)
    _places: Mapping[str, Place] = field(repr=False)

    @cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        """Specs by name."""
        return {spec.name: spec for spec in self.specs}

    def tensor(self, name: str, *, mapped: bool = False) -> torch.Tensor:
        """The tensor's values, in memory of their own: writable, and independent of the file.

        ``mapped`` values are read when they are first looked at; writing to them does not reach
        the file. The file must then stay as it is: Python ends with SIGBUS where one that has
        been cut short meanwhile is looked at. Raises CheckpointError for a name that is not
        there, a tensor of a kind that is not read, or a file that has changed since it was opened.
        """
        from surgery.checkpoint.tensors import map_tensor, read_tensor

        place = self.place(name)
        with place.region.source.opened() as reader:
            return (map_tensor if mapped else read_tensor)(place, reader)

    def state_dict(self, *, mapped: bool = False) -> OrderedDict[str, torch.Tensor]:
        """Every readable tensor, as ``load_state_dict`` wants them; ``mapped`` as above.

        Tied names share memory. Module versions are attached as torch attaches them
        (``_metadata``), or else layers that changed their format would be loaded wrongly.
        """
        from surgery.checkpoint.tensors import map_tensor, read_tensor

        read: dict[Place, torch.Tensor] = {}
        state: OrderedDict[str, torch.Tensor] = OrderedDict()
        with OneAtATime() as sources:
            for name, place in self._places.items():
                if place not in read:
                    reader = sources.reader(place.region.source)
                    read[place] = (map_tensor if mapped else read_tensor)(place, reader)
                state[name] = read[place].detach()
        if self.versions:
            metadata = {path: {"version": version} for path, version in self.versions.items()}
            state._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
        return state

    def verify(self, *, values: bool = True, progress: Progress = untold) -> Verification:
        """Read every byte of the tensors: what disagrees with its checksum, what is NaN or Inf.

        Torch compares no checksum when it loads. Only its zip format records any; a file of
        another format is at least noticed to be cut short. Raises nothing for damage:
        ``checkpoint.verify().refuse_damage()`` does. ``values=False`` leaves NaN and Inf out and
        needs no torch; ``progress`` is called with the bytes just read.
        """
        state = StateDict(self.key, self._places)
        from surgery.checkpoint.verification import verify

        return verify(self.path, (state,), values=values, progress=progress)

    def close(self) -> None:
        """Nothing to do: no file is held open between calls."""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def place(self, name: str) -> Place:
        """Where the tensor lies. Raises CheckpointError as :meth:`tensor` does."""
        if name in self._places:
            return self._places[name]
        reasons = dict(self.unreadable)
        if name in reasons:
            raise CheckpointError(f"{shown(self.path)}: {shown(name)} is {reasons[name]}")
        raise CheckpointError(
            f"{shown(self.path)}: no tensor is called {shown(name)}"
            f"{did_you_mean(name, self._places)}"
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a file holds. ``size`` is in bytes, of all shards together.

    ``others`` are the entries beside the state dicts, each with a short text (``("epoch",
    "int 37")``). ``opaque`` are globals that the file names and that were not imported.
    """

    path: Path
    format: str
    size: int
    state_dicts: tuple[StateDict, ...]
    others: tuple[tuple[str, str], ...]
    opaque: tuple[str, ...]
    _files: tuple[Source, ...] = field(repr=False)

    def verify(self, *, values: bool = True, progress: Progress = untold) -> Verification:
        """:meth:`Checkpoint.verify` of all state dicts together and all else that the file has
        with a checksum: the pickle with the names, an optimizer's state.
        """
        from surgery.checkpoint.verification import verify

        return verify(self.path, self.state_dicts, self._files, values=values, progress=progress)


def open_checkpoint(path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
    """Open any supported file, index of shards, or folder with exactly one of them.

    The format is told by content. Nothing in the file is executed, whatever it says. ``key``
    chooses among several state dicts (``"state_dict_ema"``, or ``"."`` for the outermost mapping
    where that is one itself); nothing is chosen silently. Raises CheckpointError.
    """
    path, holding = _hold(Path(path), key)
    state = _choose(path, holding, key)
    return Checkpoint(
        path=path,
        format=holding.format,
        key=state.key,
        specs=state.specs,
        metadata=state.metadata,
        ties=state.ties,
        versions=state.versions,
        opaque=holding.opaque,
        unreadable=state.unreadable,
        not_tensors=state.not_tensors,
        others=(*_other_state_dicts(holding, state), *holding.others),
        _places=state.places,
    )


def _other_state_dicts(holding: Holding, chosen: StateDict) -> Iterator[tuple[str, str]]:
    for state in holding.state_dicts:
        if state is not chosen:
            yield state.key or TOP, f"a state dict of {count(len(state.places), 'tensor')}"


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """What a file holds, without choosing. Raises CheckpointError as ``open_checkpoint`` does."""
    path, holding = _hold(Path(path), None)
    states = holding.state_dicts
    places = (place for state in states for place in state.places.values())
    files = tuple(dict.fromkeys(place.region.source for place in places)) or (Source.of(path),)
    return Contents(
        path,
        holding.format,
        sum(file.size for file in files),
        states,
        holding.others,
        holding.opaque,
        files,
    )


def _hold(path: Path, key: str | None) -> tuple[Path, Holding]:
    """The file that ``path`` leads to, and what it holds."""
    path = _resolve(path)
    with Source.of(path).opened() as reader:
        kind = recognise(reader)
        if kind == "index":
            return path, read_index(reader, _shard)
        return path, _read(kind, reader, key)


def _resolve(path: Path) -> Path:
    """``path`` itself, or the one checkpoint in that folder."""
    try:
        if not path.exists():
            raise _missing(path)
        return _only_checkpoint(path) if path.is_dir() else path
    except OSError as error:
        raise CheckpointError(
            f"{shown(path)}: cannot be read: {error.strerror or error}"
        ) from error


def _shard(path: Path) -> Holding:
    with Source.of(path).opened() as reader:
        kind = recognise(reader)
        if kind == "index":
            raise CheckpointError(f"{reader.source.label}: an index, where a shard is expected")
        return _read(kind, reader, None)


def _read(kind: str, reader: Reader, key: str | None) -> Holding:
    if kind == "safetensors":
        return read_safetensors(reader)
    return read_zip(reader, key) if kind == "zip" else read_stream(reader, key)


def _missing(path: Path) -> CheckpointError:
    if path.is_symlink():
        return CheckpointError(f"{shown(path)}: a link to a file that does not exist")
    folder = path.parent
    if not folder.is_dir():
        return CheckpointError(f"{shown(path)}: no such file, and no folder {shown(folder)}")
    near = did_you_mean(path.name, (entry.name for entry in folder.iterdir()))
    return CheckpointError(f"{shown(path)}: no such file{shown(near)}")


def _only_checkpoint(folder: Path) -> Path:
    """The one index or checkpoint in a folder; shards belong to their index."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    indexes = [file for file in files if file.name.endswith(_INDEX_SUFFIX)]
    shards = {part for index in indexes for part in files if _is_shard(part, index)}
    found = [
        *indexes,
        *(file for file in files if file.name.lower().endswith(SUFFIXES) and file not in shards),
    ]
    if len(found) > 1:
        # A trainer's folder has its optimizer, its arguments and its random state beside the model.
        found = [file for file in found if _may_hold_weights(file)] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(
            f"{shown(folder)}: a folder without a checkpoint",
            (f"looked for {', '.join(SUFFIXES)} and *{_INDEX_SUFFIX}",),
        )
    raise CheckpointError(
        f"{shown(folder)}: a folder with {count(len(found), 'checkpoint')}; name one of them",
        [shown(file.name) for file in found],
    )


def index_beside(path: Path) -> Path | None:
    """The index in whose set the file is one shard, by their names; None where there is none."""
    indexes = path.parent.glob(f"*{_INDEX_SUFFIX}")
    return next((index for index in sorted(indexes) if _is_shard(path, index)), None)


def _is_shard(file: Path, index: Path) -> bool:
    """By its name: ``model-00001-of-00002.safetensors``, and not ``model-best.safetensors``."""
    stem = index.name.removesuffix(_INDEX_SUFFIX).rpartition(".")[0]
    return re.match(rf"{re.escape(stem)}-\d+-of-\d+", file.name) is not None


def _may_hold_weights(file: Path) -> bool:
    """Whether a state dict is in it; a file that cannot be read might have been meant."""
    try:
        return bool(_hold(file, None)[1].state_dicts)
    except CheckpointError:
        return True


def _choose(path: Path, holding: Holding, key: str | None) -> StateDict:
    states = holding.state_dicts
    if key is not None:
        return _with_key(path, holding, key)
    if len(states) == 1:
        return states[0]
    if states:
        raise CheckpointError(
            f"{shown(path)}: holds {len(states)} state dicts; choose one with key= or --key",
            _candidates(states),
        )
    raise CheckpointError(
        f"{shown(path)}: holds no state dict",
        first_of([f"{shown(name)}: {text}" if name else text for name, text in holding.others]),
    )


def _with_key(path: Path, holding: Holding, key: str) -> StateDict:
    for state in holding.state_dicts:
        if is_at(key, state.key):
            return state
    keys = [state.key for state in holding.state_dicts if state.key is not None]
    others = dict(holding.others)
    if key in others:
        raise CheckpointError(
            f"{shown(path)}: {shown(key)} holds {others[key]}, no state dict",
            _candidates(holding.state_dicts),
        )
    near = did_you_mean(key, [*keys, *others])
    raise CheckpointError(
        f"{shown(path)}: no state dict has the key {shown(key)}{shown(near)}",
        _candidates(holding.state_dicts),
    )


def _candidates(states: Sequence[StateDict]) -> list[str]:
    return first_of(
        [
            f"{TOP if state.key is None else shown(state.key)}: "
            f"{count(len(state.places) + len(state.unreadable), 'tensor')}"
            f"{' (the file itself)' if state.key is None else ''}"
            for state in states
        ]
    )
