"""The states of optimizers in a file that torch.save wrote, with nothing executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from surgery.checkpoint.contents.finding import optimizers_in, summary
from surgery.checkpoint.formats.recognise import recognise
from surgery.checkpoint.formats.torch_files import Pickled, unpickle_file
from surgery.checkpoint.pickles.inert import TensorRef
from surgery.checkpoint.source import Reader, Source
from surgery.checkpoint.tensors.reading import read_tensor
from surgery.errors import CheckpointError
from surgery.wording import printable

_DEEPEST_VALUE = 8


def read_optimizer_states(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Every ``Optimizer.state_dict()`` in a ``.pt`` file, by the dotted key that leads to it.

    ``""`` is the key of a file that is nothing else; Lightning's is ``optimizer_states.0``.
    Entries of the groups that are no plain values are left out, as only their parameters are
    of use here. Raises CheckpointError, also for a state that holds other objects.
    """
    with Source.of(Path(path)).opened() as reader:
        kind = recognise(reader)
        if kind not in ("zip", "stream"):
            raise CheckpointError(
                f"{printable(path)}: no file of torch.save; it holds no optimizer"
            )
        pickled = unpickle_file(kind, reader)
        states: dict[str, dict[str, Any]] = {}
        for key, value in optimizers_in(pickled.value):
            label = f"{pickled.label}{f' ({printable(key)})' if key else ''}"
            try:
                states[key] = _optimizer(value, _Thaw(pickled, reader))
            except _Unthawed as error:
                raise CheckpointError(f"{label}: the optimizer's state holds {error}") from error
        return states


class _Unthawed(ValueError):
    """A value that is neither plain nor a tensor."""


def _optimizer(value: Mapping[Any, Any], thaw: _Thaw) -> dict[str, Any]:
    state, groups = value["state"], value["param_groups"]
    if not isinstance(state, dict) or not isinstance(groups, list):
        raise _Unthawed(f"{summary(state)} and {summary(groups)} in place of its groups")
    plain: list[dict[str, Any]] = []
    for group in groups:
        if not isinstance(group, dict):
            raise _Unthawed(f"{summary(group)} in place of a group")
        plain.append({})
        for key, setting in group.items():
            with suppress(_Unthawed):
                plain[-1][str(key)] = thaw(setting)
    return {"state": thaw(state), "param_groups": plain}


class _Thaw:
    """Inert values to live ones. Equal objects stay one object, so a small file stays small."""

    def __init__(self, pickled: Pickled, reader: Reader) -> None:
        self._pickled = pickled
        self._reader = reader
        self._done: dict[int, Any] = {}

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if id(value) not in self._done:
            self._done[id(value)] = self._thaw(value, depth)
        return self._done[id(value)]

    def _thaw(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST_VALUE:
            raise _Unthawed("values nested too deep")
        match value:
            case None | bool() | int() | float() | str():
                return value
            case TensorRef():
                place = self._pickled.place("of the optimizer", value)
                if place.is_absurd:
                    raise _Unthawed("a view that repeats few values many times")
                return read_tensor(place, self._reader)
            case dict():
                return {key: self(child, depth + 1) for key, child in value.items()}
            case list() | tuple():
                return type(value)(self(child, depth + 1) for child in value)
        raise _Unthawed(f"{summary(value)}, which is not read")
