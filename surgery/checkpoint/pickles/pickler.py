"""The pickle inside a file for ``torch.load``, written without torch.

Protocol 2, as ``torch.save`` writes it; opcodes as in the standard library's ``pickletools``.
Only what ``torch.load(weights_only=True)`` reads back is written: plain Python values, and
tensors, which are calls of ``torch._utils._rebuild_tensor_v2`` on a storage that the pickle names
(``torch/_tensor.py``, ``Tensor._reduce_ex_internal``, and ``torch/serialization.py``, ``_save``).
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from surgery.checkpoint.pickles.inert import STORAGE_DTYPES
from surgery.checkpoint.places import contiguous_strides
from surgery.specs import DTYPE_BITS

_STORAGES = {dtype: storage for storage, dtype in STORAGE_DTYPES.items() if dtype in DTYPE_BITS}

# By exact type: a subclass would come back as something else.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, OrderedDict, dict, list, tuple})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor whose values fill the storage ``key``, ``nbytes`` long, in row-major order."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Unpicklable(ValueError):
    """A value that is not written here; the message says which."""


def pickled(
    state: Mapping[str, Any],
    attributes: Mapping[str, Any],
    stored: Callable[[Any], StoredTensor | None],
) -> bytes:
    """An OrderedDict with ``attributes`` set on it.

    ``stored`` gives the storage of a value that stands for a tensor, None for any other value.
    Raises Unpicklable.
    """
    writer = _Pickle(stored)
    try:
        writer.ordered(state)
        if attributes:
            writer.value(dict(attributes))
            writer.out += b"b"
    except RecursionError as error:
        raise Unpicklable("nested too deep") from error
    writer.out += b"."
    return bytes(writer.out)


class _Pickle:
    """What has been written, and which texts and globals a number stands for from now on."""

    def __init__(self, stored: Callable[[Any], StoredTensor | None]) -> None:
        self.out = bytearray(b"\x80\x02")
        self._stored = stored
        self._memo: dict[bytes, bytes] = {}

    def value(self, value: Any) -> None:
        if (tensor := self._stored(value)) is not None:
            self._tensor(tensor)
            return
        if type(value) not in _PLAIN and not isinstance(value, str):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise Unpicklable(f"a {kind}, which is neither a plain value nor a tensor")
        match value:
            case None:
                self.out += b"N"
            case bool():
                self.out += b"\x88" if value else b"\x89"
            case int():
                self._integer(value)
            case float():
                self.out += b"G" + struct.pack(">d", value)
            case str():
                self.out += _text(value)
            case bytes():
                self._bytes(value)
            case OrderedDict():
                self.ordered(value)
            case dict():
                self.out += b"}"
                self._items(value)
            case list():
                self.out += b"]"
                self._all(value, b"e")
            case tuple():
                self._all(value, b"t")

    def ordered(self, entries: Mapping[Any, Any]) -> None:
        self._global("collections OrderedDict")
        self.out += b")R"
        self._items(entries)

    def _items(self, entries: Mapping[Any, Any]) -> None:
        self._all(chain.from_iterable(entries.items()), b"u")

    def _all(self, values: Iterable[Any], then: bytes) -> None:
        self.out += b"("
        for value in values:
            self.value(value)
        self.out += then

    def _integer(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += b"K" + bytes((value,))
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if len(data) > 255:
                raise Unpicklable(f"an integer of {value.bit_length():,} bits")
            self.out += b"\x8a" + bytes((len(data),)) + data

    def _bytes(self, value: bytes) -> None:
        """Protocol 2 has no bytes: it has the call that makes them of text."""
        self._global("_codecs encode")
        self.out += b"(" + _text(value.decode("latin-1")) + _text("latin1") + b"tR"

    def _tensor(self, tensor: StoredTensor) -> None:
        storage = _STORAGES.get(tensor.dtype)
        self._global(f"torch._utils _rebuild_tensor_v{2 if storage else 3}")
        self.out += b"(("
        self._once(_text("storage"))
        self._global(f"torch {storage}" if storage else "torch.storage UntypedStorage")
        self.out += _text(tensor.key)
        self._once(_text("cpu"))
        self._integer(math.prod(tensor.shape) if storage else tensor.nbytes)
        self.out += b"tQK\x00"
        self.value(tensor.shape)
        self.value(contiguous_strides(tensor.shape))
        self.out += b"\x89"
        self._global("collections OrderedDict")
        self.out += b")R"
        if not storage:
            self._global(f"torch {tensor.dtype}")
        self.out += b"tR"

    def _global(self, name: str) -> None:
        self._once(b"c" + name.replace(" ", "\n").encode() + b"\n")

    def _once(self, spelled: bytes) -> None:
        """Spell it out the first time, and refer to it by number after that."""
        known = self._memo.get(spelled)
        if known is not None:
            self.out += b"h" + known
            return
        number = bytes((len(self._memo),))  # a few dozen storage classes and dtypes at most
        self._memo[spelled] = number
        self.out += spelled + b"q" + number


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data
