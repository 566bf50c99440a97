"""safetensors' own reader beside ours: what both accept has equal tensors."""

from __future__ import annotations

from pathlib import Path

import safetensors

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.formats.safetensors import DTYPES
from surgery.checkpoint.places import Place
from surgery.errors import CheckpointError


def try_both(path: Path) -> tuple[bool, bool]:
    """Whether safetensors' reader accepts the file, and whether ours does."""
    theirs = _theirs(path.read_bytes())
    ours = _ours(path)
    if theirs is not None and ours is not None:
        assert theirs == ours, "two readings of one file"
    return theirs is not None, ours is not None


Reading = dict[str, tuple[str, tuple[int, ...], bytes]]


def _theirs(data: bytes) -> Reading | None:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {
        name: (DTYPES.get(entry["dtype"], ""), tuple(entry["shape"]), bytes(entry["data"]))
        for name, entry in entries
        if entry["dtype"] in DTYPES and entry["dtype"] != "F4"  # counted in pairs by torch
    }


def _ours(path: Path) -> Reading | None:
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return None
    if checkpoint.format != "safetensors":
        return None
    aliases = {name for tie in checkpoint.ties for name in tie[1:]}
    return {
        spec.name: (spec.dtype, spec.shape, _values(path, checkpoint.place(spec.name)))
        for spec in checkpoint.specs
        if spec.name not in aliases and spec.dtype != "float4_e2m1fn_x2"
    }


def _values(path: Path, place: Place) -> bytes:
    region = place.region
    return path.read_bytes()[region.start : region.start + region.nbytes]
