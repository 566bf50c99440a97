"""A network with fewer layers, or more: every layer of the target is given one of the source's.

``blocks=depth`` takes evenly spaced layers, the first and the last among them, as the uniform
choice of "Initializing Models with Larger Ones" (Xu et al. 2024) does; in a deeper target that
repeats layers side by side. ``blocks=depth:how=stack`` puts whole copies one on the other
("Efficient Training of BERT by Progressively Stacking", Gong et al. 2019). Never without being
asked: by their names the first layers fit already. Which tensors of which layers meet is
:mod:`surgery.transfers.resize.stacks`' to say; the values stay as they are.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from surgery.transfers.resize.resizer import Case, NoFit, Resizer, Settings, one_of

REFERENCES = {
    "uniform": "Initializing Models with Larger Ones (Xu et al. 2024)",
    "stack": "Progressively Stacking BERT (Gong et al. 2019)",
}


def layers_from(how: str, old: int, new: int) -> tuple[int, ...]:
    """For each of ``new`` layers, the one of ``old`` that it is given; all count from 0.

    >>> layers_from("uniform", 12, 4), layers_from("stack", 3, 6)
    ((0, 4, 7, 11), (0, 1, 2, 0, 1, 2))
    """
    if how == "stack":
        return tuple(layer % old for layer in range(new))
    step = Fraction(old - 1, max(new - 1, 1))
    return tuple(round(layer * step) for layer in range(new))


def decide(case: Case) -> NoFit:
    """Depth is decided for whole layers, before single tensors are looked at."""
    return NoFit("depth is about layers, not about one tensor")


def compute(
    source: torch.Tensor,
    shape: tuple[int, ...],
    settings: Settings,
    initial: torch.Tensor | None,
) -> torch.Tensor:
    """The other layer's values."""
    return source


RESIZER = Resizer(
    "depth",
    REFERENCES["uniform"],
    decide,
    compute,
    options={"how": one_of("uniform", "stack")},
    automatic=False,
)
