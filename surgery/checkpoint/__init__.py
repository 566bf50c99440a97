"""The only place that opens weight files. Reading one never runs anything that it holds.

``opening`` opens any file or folder (:func:`open_checkpoint`, :func:`read_contents`): ``formats``
has a module for each format, ``contents`` finds the state dicts, ``pickles`` reads pickles. What
comes out (``holding``) are the ``places`` of tensors in a ``source``, whose bytes ``pieces`` gives.
``weights`` puts one face on files and on what is in memory, ``verification`` and ``difference``
read all of it. ``writer`` writes (``save``), with ``writing``; ``conversion`` does both.

``tensors`` alone imports torch.
"""

from surgery.checkpoint.holding import Checkpoint, Contents
from surgery.checkpoint.opening import open_checkpoint, read_contents

__all__ = ["Checkpoint", "Contents", "open_checkpoint", "read_contents"]
