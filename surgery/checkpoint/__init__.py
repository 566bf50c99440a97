"""The only place that opens weight files. Reading one never runs anything that it holds.

``index`` opens (:func:`open_checkpoint`, :func:`read_contents`), ``writer`` saves
(:func:`save`). Below ``index``, one format a file: ``safetensors``, ``pytorch`` (``zipped`` and
the pickle machine of ``pickled``, ``opcodes``, ``constructors``, ``inert``), ``sharded``. All of
them give a ``Holding`` whose tensors are ``Place`` s in a ``Source``; ``tensors`` reads those.
``verification`` reads every byte of them, a piece at a time (``pieces``, ``numbers``, ``views``).
"""

from surgery.checkpoint.index import Checkpoint, Contents, open_checkpoint, read_contents
from surgery.checkpoint.optimizer_states import read_optimizer_states
from surgery.checkpoint.verification import Verification, refuse_damage
from surgery.checkpoint.writer import save

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
