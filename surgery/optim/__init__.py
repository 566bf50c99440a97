"""Optimizers that neither torch nor timm has; theirs come by name, see :mod:`surgery.tuning`.

Resolved on first use, so that ``import surgery.optim`` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.optim.layer_adaptive import LayerAdaptiveAdam

__all__ = ["LayerAdaptiveAdam"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'surgery.optim' has no attribute {name!r}")
    from surgery.optim import layer_adaptive

    return getattr(layer_adaptive, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
