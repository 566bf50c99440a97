"""Tensors of another form that can be computed from the source's, one adapter a file.

An adapter decides on names and shapes, which is part of the plan
(:class:`~surgery.transfers.plan.Adapt`), and computes when the plan is applied. ``ADAPTERS`` are
in the order in which those that are automatic are tried; the first that fits is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from surgery.transfers.resize.adapter import Adapter

ADAPTERS: Mapping[str, Adapter] = {
    module.ADAPTER.name: module.ADAPTER
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
