"""What each pickle opcode does to the machine, by its name in the standard library's
``pickletools``, whose table says how its argument is read.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from surgery.checkpoint.pickles.constructors import as_key, fill
from surgery.checkpoint.pickles.inert import Malformed, Opaque, Ordered
from surgery.checkpoint.pickles.machine import Machine

#: Gets the machine, and the argument behind the opcode where it has one.
Operation = Callable[..., object]
#: Reads an argument from where the file is.
Reader = Callable[[BytesIO], Any]

_HIGHEST_PROTOCOL = 5
_WIDEST_INDEX = 32
_SIZE_OF_A_SET = 27  # in pointers


def _proto(_: Machine, protocol: int) -> None:
    if protocol > _HIGHEST_PROTOCOL:
        raise Malformed(f"pickle protocol {protocol}; the highest known is {_HIGHEST_PROTOCOL}")


def _frame(machine: Machine, length: int) -> None:
    left = machine.file.getbuffer().nbytes - machine.file.tell()
    if length > left:
        machine.file.seek(left, 1)
        raise Malformed(f"a frame of {length:,} bytes, with {left:,} left")


# The stack and the memo


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _put(machine: Machine, index: int) -> None:
    # Numbers of any width can be chosen so that their hashes are equal: see `as_key`.
    if index.bit_length() > _WIDEST_INDEX:
        raise Malformed("a number to remember by that no pickler counts to")
    machine.memo[index] = machine.stack[-1]


def _get(machine: Machine, index: int) -> None:
    machine.push(machine.memo[index])


# Containers


def _empty_set(machine: Machine) -> None:
    """The one opcode of a single byte that takes hundreds of them in memory."""
    machine.spend(_SIZE_OF_A_SET)
    machine.push(set())


def _short_tuple(length: int) -> Operation:
    def push(machine: Machine) -> None:
        items = [machine.pop() for _ in range(length)]
        machine.push(tuple(reversed(items)))

    return push


def _append(machine: Machine) -> None:
    item = machine.pop()
    _extend(machine.stack[-1], [item])


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _extend(machine.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    match target:
        case list():
            target.extend(items)
        case Opaque():
            pass
        case set():
            target.update(as_key(item) for item in items)
        case _:
            raise Malformed(f"appending to a {type(target).__name__}")


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine.stack[-1], {as_key(key): value})


def _set_items(machine: Machine) -> None:
    pairs = _paired(machine.pop_mark())
    _update(machine.stack[-1], pairs)


def _paired(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise Malformed("a key without a value")
    return {as_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


def _update(target: Any, pairs: dict[Any, Any]) -> None:
    match target:
        case dict():
            target.update(pairs)
        case Opaque():
            target.entries.update(pairs)
        case _:
            raise Malformed(f"setting a key of a {type(target).__name__}")


# Globals, calls, objects


def _global(machine: Machine, named: tuple[str, str]) -> None:
    machine.push(machine.find(*named))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.find(module, name))


def _extension(machine: Machine, number: int) -> None:
    """A global by its number in a registry of the process that wrote the file."""
    machine.push(machine.find("copyreg", f"extension_{number}"))


def _reduce(machine: Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, args))


def _new_with_keywords(machine: Machine) -> None:
    machine.pop()  # the keywords
    _reduce(machine)


def _inst(machine: Machine, named: tuple[str, str]) -> None:
    machine.push(machine.call(machine.find(*named), tuple(machine.pop_mark())))


def _obj(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push(machine.call(items[0], tuple(items[1:])))


def _build(machine: Machine) -> None:
    """Set attributes from a dictionary, or from a pair of them (``__dict__`` and slots)."""
    state = machine.pop()
    target = machine.stack[-1]
    if not isinstance(target, Opaque | Ordered):
        return  # a tensor's Python attributes, a list's: nothing here reads them
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict):
            machine.spend(len(attributes))
            fill(target.attributes, attributes)


# Arguments that `pickletools` reads otherwise than Python 2 wrote them, or with a warning


def _line(file: BytesIO) -> bytes:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise Malformed("a line that does not end")
    return line[:-1]


def _two_names(file: BytesIO) -> tuple[str, str]:
    return _line(file).decode("utf-8"), _line(file).decode("utf-8")


# The escapes are those that the repr of Python 2's `str` has, and octal ones.
_QUOTED = re.compile(
    rb"""(['"])((?:[^\\]|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|[0-3]?[0-7]{1,2}))*)\1""", re.DOTALL
)


def _quoted(file: BytesIO) -> str:
    """The repr of a Python 2 string: bytes of no stated encoding, read as latin-1."""
    text = _QUOTED.fullmatch(_line(file).strip())
    if text is None:
        raise Malformed("text without its quotes, or with an escape that is not known")
    return text[2].decode("unicode_escape")


_READERS: Mapping[str, Reader] = {
    "STRING": _quoted,
    "GLOBAL": _two_names,
    "INST": _two_names,
}

#: Opcodes whose argument is the value.
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)

#: All opcodes but STOP, and what no file of weights has: text as a persistent id, and buffers
#: outside of the pickle.
_OPERATIONS: Mapping[str, Operation] = {
    **dict.fromkeys(_VALUES, Machine.push),
    "PROTO": _proto,
    "FRAME": _frame,
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "BYTEARRAY8": lambda machine, data: machine.push(bytes(data)),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": lambda machine: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine: _put(machine, len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "TUPLE": lambda machine: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "LIST": lambda machine: machine.push(machine.pop_mark()),
    "APPEND": _append,
    "APPENDS": _appends,
    "EMPTY_DICT": lambda machine: machine.push({}),
    "DICT": lambda machine: machine.push(_paired(machine.pop_mark())),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "EMPTY_SET": _empty_set,
    "ADDITEMS": _appends,
    "FROZENSET": lambda machine: machine.push({as_key(item) for item in machine.pop_mark()}),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": _build,
    "BINPERSID": lambda machine: machine.push(machine.persistent(machine.pop())),
}


def _reader(opcode: pickletools.OpcodeInfo) -> Reader | None:
    return _READERS.get(opcode.name) or (opcode.arg.reader if opcode.arg else None)


#: By the opcode's byte: how its argument is read, None where it has none, and what is done.
OPCODES: Mapping[bytes, tuple[Reader | None, Operation]] = {
    opcode.code.encode("latin-1"): (_reader(opcode), _OPERATIONS[opcode.name])
    for opcode in pickletools.opcodes
    if opcode.name in _OPERATIONS
}
