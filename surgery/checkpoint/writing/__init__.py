"""From what the values are made of to a file that is whole or not there.

In the order of the work: ``values`` (a place in a file, a tensor, something to compute), ``draft``
(a state dict of them), ``safetensors_layout`` and ``torch_layout`` (where everything goes: a
``layout`` of ``segments``), ``moving`` (the bytes, in the kernel where it can), ``atomic`` (the
file's name, once all is written), ``shards`` (several files and an index).
"""
