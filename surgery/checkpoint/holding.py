"""What a file holds, whatever its format: state dicts, each with its tensors' places."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.source import OneAtATime, Source
from surgery.collecting import collector_paused
from surgery.errors import CheckpointError, did_you_mean
from surgery.showing import Shown
from surgery.specs import TensorSpec
from surgery.wording import printable

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.verification import Verification


@dataclass(frozen=True, eq=False)
class StateDict:
    """One state dict: where its tensors lie, in its own order, aliases included.

    ``key`` is the dotted path to it (``"ema.state_dict"``), None for the outermost mapping.
    ``unreadable`` are tensors of a kind that is not read, each with the reason, and
    ``not_tensors`` names of other entries: neither is in ``specs``. ``versions`` are those of its
    modules by path, ``metadata`` is text kept with it.
    """

    key: str | None
    places: Mapping[str, Place] = field(repr=False)
    unreadable: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    not_tensors: tuple[str, ...] = field(default=(), repr=False)
    versions: Mapping[str, int] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    @collector_paused()
    def specs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes, in order."""
        places = self.places.items()
        return tuple(TensorSpec(name, place.shape, place.dtype) for name, place in places)

    @property
    def unlisted(self) -> tuple[tuple[str, str], ...]:
        """The entries without a spec, each with what it is."""
        others = ((name, "not a tensor") for name in self.not_tensors)
        return (*self.unreadable, *others)

    @cached_property
    @collector_paused()
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Names of one and the same tensor, grouped; an empty tensor is tied to nothing."""
        return tied((name, place) for name, place in self.places.items() if 0 not in place.shape)

    def to_dict(self) -> dict[str, Any]:
        """The state dict as JSON values."""
        return {
            "key": self.key,
            "tensors": [
                {
                    "name": spec.name,
                    "shape": list(spec.shape),
                    "dtype": spec.dtype,
                    "elements": spec.numel,
                    "bytes": spec.nbytes,
                }
                for spec in self.specs
            ],
            "ties": [list(names) for names in self.ties],
            "unlisted": [[name, what] for name, what in self.unlisted],
            "versions": dict(self.versions),
            "metadata": dict(self.metadata),
        }


def tied(identities: Iterable[tuple[str, Hashable]]) -> tuple[tuple[str, ...], ...]:
    """The names of one thing, where it has several."""
    names: dict[Hashable, list[str]] = {}
    for name, identity in identities:
        names.setdefault(identity, []).append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint(StateDict):
    """One state dict of one file: names and shapes in memory, values still in the file.

    ``opaque`` are globals that the file names and that were not imported. ``others`` is what the
    file holds beside this state dict, each with a short text (``("epoch", "int 37")``).

    Holds no open file, so there is nothing to close.
    """

    path: Path
    format: str
    opaque: tuple[str, ...] = field(repr=False)
    others: tuple[tuple[str, str], ...] = field(repr=False)

    def tensor(self, name: str, *, mapped: bool = False) -> torch.Tensor:
        """The tensor's values, in memory of their own: writable, and independent of the file.

        ``mapped`` values are read when they are first looked at; writing to them does not reach
        the file. The file must then stay as it is: Python ends with SIGBUS where one that has
        been cut short meanwhile is looked at. Raises CheckpointError for a name that is not
        there, a tensor of a kind that is not read, or a file that has changed since it was opened.
        """
        return self._read({name: self.place(name)}, mapped)[name]

    def state_dict(self, *, mapped: bool = False) -> OrderedDict[str, torch.Tensor]:
        """Every readable tensor, as ``load_state_dict`` wants them; ``mapped`` as above.

        Tied names share memory. Module versions are attached as torch attaches them
        (``_metadata``), or else layers that changed their format would be loaded wrongly.
        """
        state = self._read(self.places, mapped)
        if self.versions:
            from surgery.private_torch import set_metadata

            metadata = {path: {"version": version} for path, version in self.versions.items()}
            set_metadata(state, OrderedDict(metadata))
        return state

    def _read(self, places: Mapping[str, Place], mapped: bool) -> OrderedDict[str, torch.Tensor]:
        from surgery.checkpoint.tensors.reading import map_tensor, read_tensor

        read: dict[Place, torch.Tensor] = {}
        state: OrderedDict[str, torch.Tensor] = OrderedDict()
        with OneAtATime() as sources:
            for name, place in places.items():
                if place not in read:
                    reader = sources.reader(place.region.source)
                    read[place] = (map_tensor if mapped else read_tensor)(place, reader)
                state[name] = read[place].detach()
        return state

    def verify(self, *, values: bool = True, progress: Progress = unwatched) -> Verification:
        """Read every byte of the tensors: what disagrees with its checksum, what is NaN or Inf.

        Torch compares no checksum when it loads. Only its zip format records any; a file of
        another format is at least noticed to be cut short. Raises nothing for damage:
        ``checkpoint.verify().refuse_damage()`` does. ``values=False`` leaves NaN and Inf out and
        needs no torch; ``progress`` is called with the bytes just read.
        """
        from surgery.checkpoint.verification import verify

        return verify(self.path, {self.key: self.places}, values=values, progress=progress)

    def place(self, name: str) -> Place:
        """Where the tensor lies. Raises CheckpointError as :meth:`tensor` does."""
        if name in self.places:
            return self.places[name]
        reasons = dict(self.unlisted)
        if name in reasons:
            raise CheckpointError(f"{printable(self.path)}: {printable(name)} is {reasons[name]}")
        raise CheckpointError(
            f"{printable(self.path)}: no tensor is called {printable(name)}"
            f"{did_you_mean(name, self.places)}"
        )


@dataclass(frozen=True, slots=True)
class Contents(Shown):
    """All that a file holds.

    ``others`` are the entries beside the state dicts, each with a short text (``("epoch",
    "int 37")``). ``opaque`` are globals that the file names and that were not imported.
    """

    source: Source = field(repr=False)
    format: str
    state_dicts: tuple[StateDict, ...]
    others: tuple[tuple[str, str], ...] = ()
    opaque: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file itself; of shards, their index."""
        return self.source.path

    @property
    def files(self) -> tuple[Source, ...]:
        """The files that the tensors lie in; the file itself where it holds none."""
        places = (place for state in self.state_dicts for place in state.places.values())
        return tuple(dict.fromkeys(place.region.source for place in places)) or (self.source,)

    @property
    def size(self) -> int:
        """Bytes, of all shards together."""
        return sum(file.size for file in self.files)

    def verify(self, *, values: bool = True, progress: Progress = unwatched) -> Verification:
        """:meth:`Checkpoint.verify` of all state dicts together and all else that the file has
        with a checksum: the pickle with the names, an optimizer's state.
        """
        from surgery.checkpoint.verification import verify

        states = {state.key: state.places for state in self.state_dicts}
        return verify(self.path, states, self.files, values=values, progress=progress)

    def to_dict(self) -> dict[str, Any]:
        """What the file holds as JSON values."""
        return {
            "path": str(self.path),
            "format": self.format,
            "bytes": self.size,
            "state_dicts": [state.to_dict() for state in self.state_dicts],
            "others": dict(self.others),
            "opaque": list(self.opaque),
        }
