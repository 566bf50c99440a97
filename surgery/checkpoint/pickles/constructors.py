"""The few globals whose meaning is known, each as a function that makes an inert value.

A function here gets whatever arguments the pickle gives and must bear all of them: what it
does not recognise becomes an :class:`Opaque`, or an :class:`Unreadable` where a tensor was
meant. None allocates more than it was given. Signatures are those of ``torch._utils``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgery.checkpoint.pickles.inert import (
    QUANTISED_BITS,
    STORAGE_DTYPES,
    Global,
    Opaque,
    Ordered,
    StorageRef,
    TensorRef,
    Unreadable,
)
from surgery.checkpoint.places import MOST_DIMENSIONS
from surgery.specs import DTYPE_BITS
from surgery.wording import printable

Arguments = tuple[Any, ...]
Constructor = Callable[[Arguments], Any]

#: Python 2 names of what the table below knows.
_RENAMED_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "torch.tensor": "torch._tensor",
}

_UNTYPED = ("UntypedStorage", "TypedStorage", "_UntypedStorage", "_TypedStorage")
_STORAGE_DTYPES = {**STORAGE_DTYPES, **dict.fromkeys(_UNTYPED, "uint8")}


def global_name(module: str, name: str) -> str:
    """The dotted name of a global, Python 2's modules under today's names."""
    return f"{_RENAMED_MODULES.get(module, module)}.{name}"


def storage_dtype(storage_type: object) -> str | None:
    """The dtype of ``torch.FloatStorage`` and its kind (``torch.cuda.FloatStorage`` too)."""
    if not isinstance(storage_type, Global) or not storage_type.name.startswith("torch."):
        return None
    return _STORAGE_DTYPES.get(storage_type.name.rpartition(".")[2])


def is_known(name: str) -> bool:
    """Whether a global means something here; every other one is listed as opaque."""
    return (
        name in _CONSTRUCTORS
        or name.startswith((_REBUILD, "torch.per_"))  # per_...: how a tensor is quantised
        or storage_dtype(Global(name)) is not None
        or (name.startswith("torch.") and name.removeprefix("torch.") in _DTYPES)
    )


def as_key(value: Any) -> Any:
    """``value`` as a dictionary key.

    Hashing runs the value's own code and follows nested tuples down the C stack, so only flat
    values are hashed. And anyone can choose numbers whose hashes are equal, which makes every
    dictionary slow: wide and complex ones are not hashed, and at most one in a tuple. Anything
    else becomes a key of its own.
    """
    if _is_flat(value) or isinstance(value, Global):
        return value
    if type(value) is tuple and len(value) <= _LONGEST_KEY and all(map(_is_flat, value)):
        numbers = sum(type(item) in (int, float) for item in value)
        return value if numbers <= 1 else Opaque("a key of several numbers")
    return Opaque("a key that is no plain value")


def _is_flat(value: Any) -> bool:
    return type(value) in _FLAT or (type(value) is int and value.bit_length() <= _WIDEST_KEY)


def _mapping(args: Arguments) -> Ordered:
    """Of a mapping, or of a sequence of pairs; defaultdict's factory comes first."""
    result = Ordered()
    pairs = args[-1] if args else ()
    if isinstance(pairs, dict):
        result.update(pairs)
    for row in pairs if isinstance(pairs, list | tuple) else ():
        if isinstance(row, list | tuple) and len(row) == 2:
            result[as_key(row[0])] = row[1]
    return result


def _list(args: Arguments) -> list[Any]:
    return list(args[0]) if args and isinstance(args[0], list | tuple) else []


def _set(args: Arguments) -> set[Any]:
    return {as_key(item) for item in _list(args)}


def _bytes(args: Arguments) -> Any:
    """Protocol 2 has no bytes: they are written as latin-1 text and the encoding's name."""
    match args:
        case ():
            return b""
        case (bytes() | bytearray() as data,):
            return bytes(data)
        case (str(text), str(encoding)) if encoding.replace("-", "") == "latin1":
            return text.encode("latin-1", "replace")
        case _:
            return Opaque("builtins.bytes")


def _complex(args: Arguments) -> Any:
    match args:
        case (int() | float() as real, int() | float() as imaginary):
            return complex(float(real), float(imaginary))
        case _:
            return Opaque("builtins.complex")


def _text(args: Arguments) -> str:
    return str(args[0]) if args and isinstance(args[0], str) else ""


def _reconstructed(args: Arguments) -> Any:
    """``copyreg._reconstructor(cls, base, state)``: an instance of ``cls``."""
    named = args and isinstance(args[0], Global)
    return Opaque(args[0].name if named else "copyreg._reconstructor")


def _rebuild_tensor(args: Arguments) -> Any:
    """Of a storage, offset, shape, strides, whether it requires a gradient, hooks, the dtype where
    the storage has none (``v3``), and since torch 1.13 the lazy bits.
    """
    if len(args) < 4 or not isinstance(args[0], StorageRef):
        return Unreadable("its arguments are not those of a tensor")
    storage, offset, shape, strides, *rest = args
    dtype, more = storage.dtype, rest[2:]
    if more and isinstance(more[0], Global):
        dtype = more.pop(0).name.removeprefix("torch.")
    lazy = more[0] if more and isinstance(more[0], dict) else {}
    if dtype not in DTYPE_BITS:
        return Unreadable(f"of a dtype that is not read ({printable(dtype)})")
    if storage.location == "meta":
        return Unreadable("a meta tensor, which has no values")
    if any(lazy.get(bit, True) is not True for bit in ("conj", "neg")):
        return Unreadable("a tensor whose conjugate bit is no bit")  # torch looks at the key alone
    if "neg" in lazy and dtype.startswith(_NEVER_NEGATED):
        return Unreadable(f"a negated tensor of {dtype}, which torch cannot negate")
    if not (_are_sizes(shape) and _are_sizes(strides) and _is_size(offset)):
        return Unreadable("its shape or strides are not a few whole numbers")
    # A tuple of a tuple is itself: a small file can use one shape a million times.
    sizes, steps, bits = tuple(shape), tuple(strides), ("conj" in lazy, "neg" in lazy)
    return TensorRef(storage, dtype, sizes, steps, storage.offset + offset, *bits)


def _are_sizes(values: Any) -> bool:
    few = type(values) in (tuple, list) and len(values) <= MOST_DIMENSIONS
    return few and all(map(_is_size, values))


def _is_size(value: Any) -> bool:
    """Whether it is a number that may be printed; whether it makes sense is decided later."""
    return type(value) is int and value.bit_length() <= _WIDEST_SIZE


def _parameter(args: Arguments) -> Any:
    """A parameter is its data."""
    match args:
        case (TensorRef() | Unreadable() as data, *_):
            return data
        case _:
            return Unreadable("a parameter without a tensor")


def _from_type(args: Arguments) -> Any:
    """``_rebuild_from_type_v2(function, type, arguments, attributes)``: the function's tensor."""
    match args:
        case (Global(name), _, tuple() as inner, *_) if name.startswith(_REBUILD) and (
            make := constructor(name)
        ):
            return make(inner)
        case _:
            return Unreadable("a tensor subclass of its own making")


def constructor(name: str) -> Constructor | None:
    """What stands in for a call of the global; None where its meaning is not known."""
    known = _CONSTRUCTORS.get(name)
    if known is None and name.startswith(_REBUILD):  # which is followed by the kind of tensor
        kind = printable(name.removeprefix(_REBUILD).replace("_", " "))
        return lambda _: Unreadable(f"a {kind}")
    return known


_FLAT = frozenset({str, float, bool, bytes, type(None)})

# A tuple's hash is not remembered: a large one, used again and again, would cost again. Hashes
# of whole numbers are their remainders modulo 2 ** 61 - 1.
_LONGEST_KEY = 16
_WIDEST_KEY = 60

_WIDEST_SIZE = 64
# Torch negates uint8, modulo 256, and no other dtype without a sign.
_NEVER_NEGATED = ("bool", "float8", "float4", "uint16", "uint32", "uint64")
_DTYPES = frozenset(DTYPE_BITS) | frozenset(QUANTISED_BITS)

_REBUILD = "torch._utils._rebuild_"
#: None for classes that pickles name only to say what something is.
_CONSTRUCTORS: Mapping[str, Constructor | None] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch.Size": lambda args: tuple(_list(args)),
    "torch.device": _text,
    "torch.serialization._get_layout": _text,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "builtins.dict": _mapping,
    "builtins.list": _list,
    "builtins.tuple": lambda args: tuple(_list(args)),
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _bytes,
    "copyreg._reconstructor": _reconstructed,
    **dict.fromkeys(("builtins.object", "builtins.int", "builtins.float", "builtins.str")),
    **dict.fromkeys(("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")),
}
