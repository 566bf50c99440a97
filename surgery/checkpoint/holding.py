"""What a file holds, whatever its format: state dicts, and the rest in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.checkpoint.places import Place
from surgery.collecting import collector_paused
from surgery.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class StateDict:
    """One state dict: where its tensors lie, in its own order, aliases included.

    ``key`` is the dotted path to it (``"ema.state_dict"``), None where the file is nothing
    else. ``unreadable`` are names with reasons, ``not_tensors`` names of other values,
    ``versions`` the versions of modules by path.
    """

    key: str | None
    places: Mapping[str, Place]
    unreadable: tuple[tuple[str, str], ...] = ()
    not_tensors: tuple[str, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    @collector_paused()
    def specs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes, in order."""
        return tuple(place.spec(name) for name, place in self.places.items())

    @property
    def unlisted(self) -> tuple[tuple[str, str], ...]:
        """The entries without a spec, each with what it is."""
        others = ((name, "not a tensor") for name in self.not_tensors)
        return (*self.unreadable, *others)

    @property
    @collector_paused()
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Names of one and the same tensor, grouped; an empty tensor is tied to nothing."""
        names: dict[Place, list[str]] = {}
        for name, place in self.places.items():
            if 0 not in place.shape:
                names.setdefault(place, []).append(name)
        return tuple(tuple(group) for group in names.values() if len(group) > 1)


@dataclass(frozen=True, slots=True)
class Holding:
    """``others`` are entries beside the state dicts, each with a short text such as ``int 37``.

    ``opaque`` are the globals that a pickle names and that have no meaning here.
    """

    format: str
    state_dicts: tuple[StateDict, ...]
    others: tuple[tuple[str, str], ...] = ()
    opaque: tuple[str, ...] = ()
