"""What the values of one tensor in a new file are made from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from surgery.checkpoint.places import Place

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Values that are computed when their turn comes.

    ``pieces`` gives them in order, as flat tensors of ``dtype`` on the CPU.
    """

    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterator[torch.Tensor]]


#: A tensor in a file, one to be computed, or one in memory.
Values: TypeAlias = "Place | Computed | torch.Tensor"


def is_tensor(value: object) -> TypeIs[torch.Tensor]:
    """Whether a value is a tensor in memory; where torch is not imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
