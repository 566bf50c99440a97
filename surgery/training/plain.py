"""Values to JSON and back, types included, with the tensors beside it. Nothing is executed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from surgery.errors import StateRefused
from surgery.wording import printable


def packed(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for ``value``; the tensors in it come into ``tensors``, by place.

    Raises StateRefused, with the place, for what is no plain value. Types are compared exactly: a
    numpy number is a float to ``isinstance`` and would come back as one, which is no longer what
    was saved.

    >>> tensors = {}
    >>> packed({"betas": (0.9, 0.999), "sum": torch.ones(2)}, "adam", tensors)
    {'dict': [['betas', {'tuple': [0.9, 0.999]}], ['sum', {'tensor': 'adam.sum'}]]}
    >>> tensors
    {'adam.sum': tensor([1., 1.])}
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) is list:
        return [packed(item, f"{place}.{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": packed(list(value), place, tensors)}
    if isinstance(value, dict):
        pairs = [
            [packed(key, place, tensors), packed(item, f"{place}.{key}", tensors)]
            for key, item in value.items()
        ]
        # MultiStepLR keeps one, and reads milestones in it that it does not have.
        return {"counter" if isinstance(value, Counter) else "dict": pairs}
    if not isinstance(value, torch.Tensor):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise StateRefused(
            f"{printable(place)}: expected numbers, text, lists, tuples, dicts and tensors, "
            f"found {kind}: a training file holds nothing that would have to be executed"
        )
    name = place
    while name in tensors:
        name += "'"
    tensors[name] = value
    return {"tensor": name}


def unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of :func:`packed`. Other data raise KeyError, TypeError or ValueError."""
    if isinstance(value, list):
        return [unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "float":
        return float(inside)
    if kind == "tuple":
        return tuple(unpacked(item, tensors) for item in inside)
    if kind in ("dict", "counter"):
        pairs = {unpacked(key, tensors): unpacked(item, tensors) for key, item in inside}
        return Counter(pairs) if kind == "counter" else pairs
    raise ValueError(kind)
