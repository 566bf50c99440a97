"""What a file written by a transfer says of itself: every tensor's state, and the model it fits.

Kept in the file's string metadata, so that rules can later speak of ``:new`` and ``:loaded``, of
module types and of depths, from the file alone. It is data and is read as data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.collecting import collector_paused
from surgery.errors import CheckpointError
from surgery.specs import ModelSpec, TensorSpec
from surgery.states import FORMER, STATES

_ARCHITECTURE = "surgery.architecture"
_STATUS = "surgery.status"
_MODEL = "surgery.model"


@dataclass(frozen=True)
class Record:
    """``status`` maps every tensor name to its state, one of :data:`surgery.states.STATES`."""

    architecture: str
    status: Mapping[str, str]
    model: ModelSpec

    @collector_paused()
    def to_metadata(self) -> dict[str, str]:
        """The record as a checkpoint's string metadata."""
        return {
            _ARCHITECTURE: self.architecture,
            _STATUS: json.dumps(dict(self.status)),
            _MODEL: json.dumps(self.model.to_dict()),
        }


@collector_paused()
def read_record(metadata: Mapping[str, str], specs: Iterable[TensorSpec]) -> Record | None:
    """The record in a checkpoint's metadata, or None where there is none.

    Raises :class:`~surgery.errors.CheckpointError` for one that is damaged or speaks of other
    tensors than the file's.
    """
    if _STATUS not in metadata or _MODEL not in metadata:
        return None
    try:
        status = json.loads(metadata[_STATUS])
        model = ModelSpec.from_dict(json.loads(metadata[_MODEL]))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the record that a transfer left in the file's metadata is damaged: {error}"
        ) from error
    _check(status, model, {spec.name: spec for spec in specs})
    status = {name: FORMER.get(state, state) for name, state in status.items()}
    return Record(metadata.get(_ARCHITECTURE, ""), status, model)


def _check(status: object, model: ModelSpec, specs: Mapping[str, TensorSpec]) -> None:
    if not isinstance(status, dict) or not all(
        each in (*STATES, *FORMER) for each in status.values()
    ):
        raise CheckpointError(
            "the record in the file's metadata is damaged: expected every tensor's state to be "
            f"one of {', '.join(STATES)}"
        )
    if status.keys() != specs.keys() or model.by_name != specs:
        raise CheckpointError(
            "the record in the file's metadata speaks of other tensors than the file holds: it "
            "was changed after the transfer; remove its surgery.* metadata, or transfer again"
        )
