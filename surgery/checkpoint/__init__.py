"""The only place that opens weight files. Reading one never runs anything that it holds.

``index`` opens (:func:`open_checkpoint`, :func:`read_contents`): ``kinds`` tells the format,
``safetensors``, ``pytorch`` (``zipped``, ``pickles``) and ``sharded`` read one each, ``finding``
and ``modules`` find the state dicts. All give a ``Holding`` whose tensors are ``Place`` s in
a ``Source``. ``tensors`` reads those, ``filling`` puts them into live tensors, ``verification`` and
``pairs`` go through them a piece at a time (``pieces``, ``numbers``, ``views``).

``writer`` writes (:func:`save`), with ``writing``.

Reading is what most commands need: what writes and what verifies is imported when it is asked
for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.index import Checkpoint, Contents, open_checkpoint, read_contents

if TYPE_CHECKING:
    from surgery.checkpoint.optimizer_states import read_optimizer_states
    from surgery.checkpoint.verification import Verification, refuse_damage
    from surgery.checkpoint.writer import save

_HOMES = {
    "Verification": "surgery.checkpoint.verification",
    "read_optimizer_states": "surgery.checkpoint.optimizer_states",
    "refuse_damage": "surgery.checkpoint.verification",
    "save": "surgery.checkpoint.writer",
}

__all__ = [
    "Checkpoint",
    "Contents",
    "Verification",
    "open_checkpoint",
    "read_contents",
    "read_optimizer_states",
    "refuse_damage",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surgery.checkpoint' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
