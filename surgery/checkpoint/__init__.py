"""The only place that opens weight files. Reading one never runs anything that it holds.

``index`` opens (:func:`open_checkpoint`, :func:`read_contents`), ``writer`` saves
(:func:`save`). Below ``index``, one format a file: ``safetensors``, ``pytorch`` (``zipped`` and
the pickle machine of ``pickled``, ``opcodes``, ``constructors``, ``inert``), ``sharded``. All of
them give a ``Holding`` whose tensors are ``Place`` s in a ``Source``; ``tensors`` reads those.

Reading is what most commands need: what writes is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.index import Checkpoint, Contents, open_checkpoint, read_contents

if TYPE_CHECKING:
    from surgery.checkpoint.optimizer_states import read_optimizer_states
    from surgery.checkpoint.writer import save

_HOMES = {
    "read_optimizer_states": "surgery.checkpoint.optimizer_states",
    "save": "surgery.checkpoint.writer",
}

__all__ = [
    "Checkpoint",
    "Contents",
    "open_checkpoint",
    "read_contents",
    "read_optimizer_states",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surgery.checkpoint' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
