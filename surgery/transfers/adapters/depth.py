"""A network with fewer layers, or more: every layer of the target is given one of the source's.

``blocks=depth`` takes evenly spaced layers, the first and the last among them, as the uniform
choice of "Initializing Models with Larger Ones" (Xu et al. 2024) does; in a deeper target that
repeats layers side by side. ``blocks=depth:how=stack`` puts whole copies one on the other
("Efficient Training of BERT by Progressively Stacking", Gong et al. 2019), and ``how=first``
keeps the lowest layers. Never without being asked, since names alone already fit the first ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from surgery.patterns import Subject, matches
from surgery.transfers.adapters.adapter import Adapter, Case, Fit, NoFit, Settings, one_of
from surgery.transfers.adapters.asked import Asked
from surgery.transfers.names import Match
from surgery.wrappers import unwrap_name

if TYPE_CHECKING:
    import torch

_REFERENCES = {
    "uniform": "Initializing Models with Larger Ones (Xu et al. 2024)",
    "first": "Initializing Models with Larger Ones (Xu et al. 2024)",
    "stack": "Progressively Stacking BERT (Gong et al. 2019)",
}


def layer_of(how: str, old: int, new: int) -> tuple[int, ...]:
    """For each of ``new`` layers the one of ``old`` that it is given."""
    if how == "stack" or (how == "first" and new <= old):
        return tuple(layer % old for layer in range(new))
    if how == "first":
        return tuple(range(old))
    step = Fraction(old - 1, max(new - 1, 1))
    return tuple(round(layer * step) for layer in range(new))
