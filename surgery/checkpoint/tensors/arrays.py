"""Arrays of numpy in place of tensors, as JAX, Keras and ``.npz`` files have them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

#: Mappings below mappings that are looked into: a file of JAX nests two or three.
_DEEPEST = 8


def with_tensors(source: Mapping[Any, Any], depth: int = 0) -> Mapping[Any, Any]:
    """A mapping, nested or not, with a tensor on the memory of every array that torch has a dtype
    for; the very mapping where it holds no array.
    """
    held = {
        name: with_tensors(value, depth + 1)
        if isinstance(value, Mapping) and depth < _DEEPEST
        else _tensor(value)
        if isinstance(value, np.ndarray)
        else value
        for name, value in source.items()
    }
    return held if any(held[name] is not value for name, value in source.items()) else source


def _tensor(array: np.ndarray[Any, Any]) -> object:
    """A tensor; the array itself where torch has no dtype for it, such as text."""
    native = np.ascontiguousarray(array).reshape(array.shape)
    native = native.astype(native.dtype.newbyteorder("="), copy=False)
    kind = native.dtype.name
    with warnings.catch_warnings():
        # A read-only array (a memory map, JAX's) is only read here, too.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            if kind == "bfloat16":  # ml_dtypes: a dtype of numpy that torch does not take
                return torch.from_numpy(native.view(np.uint16)).view(torch.bfloat16)
            return torch.from_numpy(native)
        except TypeError:
            return array
