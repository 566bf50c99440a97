"""What is remembered of architectures, so that naming or describing one need not import torch.

``memory`` keeps values in the user's cache folder, for the installed ``code`` that they come from.

Nothing here is ever needed: what is not remembered is built again, which takes a second or two.
"""

from surgery.networks.remembered.memory import Memory, arguments_key, open_memory

__all__ = ["Memory", "arguments_key", "open_memory"]
