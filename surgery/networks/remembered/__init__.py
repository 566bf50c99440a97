"""What is remembered of architectures, so that naming or describing one need not import torch.

``signature`` is what there is to know of a model without its values, ``outline`` its names and
shapes alone, by which a file is identified; ``code`` tells which
installed code it came from; ``entries`` keeps values in the user's cache folder, and gives back
only what is whole; ``memory`` puts the three together (:func:`open_memory`).

Nothing here is ever needed: what is not remembered is built again, which takes a second or two.
"""

from surgery.networks.remembered.memory import Memory, arguments_key, open_memory
from surgery.networks.remembered.outline import Outline, from_columns, to_columns
from surgery.networks.remembered.signature import Signature

__all__ = [
    "Memory",
    "Outline",
    "Signature",
    "arguments_key",
    "from_columns",
    "open_memory",
    "to_columns",
]
