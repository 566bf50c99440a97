"""Everything that makes, fills or counts tensors. These modules import torch; no others here do.

``reading`` makes tensors of bytes, ``filling`` puts values into live ones, ``casting`` changes
their dtype, ``counting`` looks for NaN and Inf and ``differing`` compares two. ``memory`` is for
state dicts that are live already, ``optimizer_states`` for those of optimizers in files.
"""
