"""The states of optimizers in a file that torch.save wrote, with nothing executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
        return {
            key: _Thaw(pickled, reader, key).optimizer(value)
            for key, value in optimizers_in(pickled.value)
        }


class _Unthawed(ValueError):
    """A value that is neither plain nor a tensor."""


class _Thaw:
    """Inert values to live ones. Equal objects stay one object, so a small file stays small."""

    def __init__(self, pickled: Pickled, reader: Reader, key: str) -> None:
        self._place = pickled.place
        self._reader = reader
        self._label = f"{reader.source.label}{f' ({printable(key)})' if key else ''}"
        self._done: dict[int, Any] = {}

    def optimizer(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        state, groups = value["state"], value["param_groups"]
        if not isinstance(state, Mapping) or not isinstance(groups, list):
            raise CheckpointError(f"{self._label}: expected an optimizer's state and its groups")
        try:
            thawed = self._thawed(state, 0)
        except _Unthawed as error:
            raise CheckpointError(f"{self._label}: the optimizer's state holds {error}") from error
        return {"state": thawed, "param_groups": [self._group(group) for group in groups]}

    def _group(self, group: Any) -> dict[str, Any]:
        if not isinstance(group, Mapping):
            raise CheckpointError(f"{self._label}: expected a group, found {summary(group)}")
        plain: dict[str, Any] = {}
        for key, value in group.items():
            try:
                plain[str(key)] = self._thawed(value, 0)
            except _Unthawed:
                continue
        return plain

    def _thawed(self, value: Any, depth: int) -> Any:
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
                return self._tensor(value)
            case dict():
                return {key: self._thawed(child, depth + 1) for key, child in value.items()}
            case list() | tuple():
                return type(value)(self._thawed(child, depth + 1) for child in value)
        raise _Unthawed(f"{summary(value)}, which is not read")

    def _tensor(self, ref: TensorRef) -> Any:
        place = self._place("of the optimizer", ref)
        if place.is_absurd:
            raise _Unthawed("a view that repeats few values many times")
        return read_tensor(place, self._reader)
