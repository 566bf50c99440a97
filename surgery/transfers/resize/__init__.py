"""Tensors of another shape that can be made from the source's, one method a file.

A resizer decides on names and shapes, which is part of the plan
(:class:`~surgery.transfers.step.Method`), and computes when the plan is applied. ``RESIZERS`` are
in the order in which those that are automatic are tried; the first that fits is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from surgery.errors import SurgeryError, did_you_mean
from surgery.transfers.resize import (
    class_rows,
    depth,
    input_channels,
    kernel_size,
    patch_embed,
    pos_embed,
    rel_pos,
    vocabulary,
    width,
)
from surgery.transfers.resize.resizer import Resizer

RESIZERS: Mapping[str, Resizer] = {
    module.RESIZER.name: module.RESIZER
    for module in (
        input_channels,
        pos_embed,
        rel_pos,
        patch_embed,
        kernel_size,
        vocabulary,
        width,
        class_rows,
        depth,
    )
}


def resizer_called(name: str) -> Resizer:
    """Raises :class:`~surgery.errors.SurgeryError` for a name that no resizer has."""
    if name not in RESIZERS:
        near = did_you_mean(name, RESIZERS) or f"; there are {', '.join(RESIZERS)}"
        raise SurgeryError(f"there is no method {name!r} for another shape{near}")
    return RESIZERS[name]
