"""Optimizers that neither torch nor timm has; theirs come by name, see :mod:`surgery.tuning`.

Imported on first use, so that ``import surgery.optim`` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.lazy import on_first_use

if TYPE_CHECKING:
    from surgery.optim.layer_adaptive import LayerAdaptiveAdam

__all__ = ["LayerAdaptiveAdam"]

__getattr__ = on_first_use(__name__, {"surgery.optim.layer_adaptive": ["LayerAdaptiveAdam"]})
