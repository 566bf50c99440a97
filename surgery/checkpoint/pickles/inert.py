"""What a pickle becomes here: values that name things and hold things, and that do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from surgery.specs import DTYPE_BITS

#: Bits per element of torch's quantised dtypes: never read as tensors, but their storages take
#: up room in a stream, and what follows must be found.
QUANTISED_BITS = {"qint8": 8, "quint8": 8, "qint32": 32, "quint4x2": 8, "quint2x4": 8}

#: Torch's storage classes with a dtype; dtypes younger than these lie in untyped storages.
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}


_NONE: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the pickle names (``"torch.float32"``). It was not imported."""

    name: str


class Opaque:
    """Stands in for an object whose class was not imported: ``argparse.Namespace(...)``.

    Keeps what may have tensors of a whole pickled module, or of a mapping: ``entries`` set by key,
    and ``attributes``. Neither arguments nor appended items are.
    """

    __slots__ = ("attributes", "entries", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[Any, Any] = {}
        self.attributes: Mapping[Any, Any] = _NONE


class Ordered(dict[Any, Any]):
    """An OrderedDict, with the attributes that were set on it (a state dict's ``_metadata``)."""

    __slots__ = ("attributes",)

    def __init__(self) -> None:
        super().__init__()
        self.attributes: Mapping[Any, Any] = _NONE  # one for all: every tensor has one of these


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage that a tensor views: ``count`` elements of ``dtype``, kept under ``key``.

    ``offset`` is where it begins, in elements: files before torch 0.4 have storages that are parts
    of others.
    """

    key: str
    dtype: str
    count: int
    location: str
    offset: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return (DTYPE_BITS.get(self.dtype) or QUANTISED_BITS[self.dtype]) // 8


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided tensor as the pickle describes it; unchecked. ``offset`` is in elements.

    ``conjugate`` and ``negative`` are torch's lazy bits: the values are still to be conjugated
    or negated.
    """

    storage: StorageRef
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    conjugate: bool = False
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor that is not read, and why: ``"a sparse tensor"``."""

    reason: str


class Malformed(ValueError):
    """What no pickler writes. The pickle machine adds the file and the position."""
