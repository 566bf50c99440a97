"""What is remembered of architectures, so that naming or describing one need not import torch.

``memory`` keeps values in the user's cache folder, for the installed ``code`` that they come
from; ``outline`` is an architecture's names and shapes alone, by which a file is identified.

Nothing here is ever needed: what is not remembered is built again, which takes a second or two.
"""

from surgery.networks.remembered.memory import Memory, arguments_key, open_memory
from surgery.networks.remembered.outline import Outline

__all__ = ["Memory", "Outline", "arguments_key", "open_memory"]
