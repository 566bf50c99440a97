"""One number out of whatever a training loop has in hand, and into JSON and back."""

from __future__ import annotations

import math
from typing import Any

from surgery.errors import TrainingError


def scalar(what: str, value: Any) -> float:
    """A Python or NumPy number, or a tensor of one element; else a TrainingError naming ``what``.

    Reading a tensor on an accelerator waits until it is computed.
    """
    if isinstance(value, (bool, int, float)):
        return float(value)
    if not hasattr(value, "item"):
        raise TrainingError(f"{what}: expected one number, found {_kind(value)}")
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise TrainingError(f"{what}: expected one number, found the shape {shape}")
    number = value.item()
    if not isinstance(number, (bool, int, float)):
        raise TrainingError(f"{what}: expected one real number, found {_kind(number)}")
    return float(number)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def to_json(number: float) -> float | str:
    """The number, or its name where JSON has none: ``"nan"``, ``"inf"``, ``"-inf"``."""
    return number if math.isfinite(number) else str(number)


def from_json(value: float | str) -> float:
    """What :func:`to_json` was given."""
    return float(value)
