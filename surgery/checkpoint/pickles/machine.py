"""A pickle machine that imports nothing and runs nothing, and what each opcode does to it.

Opcodes have their names in the standard library's ``pickletools``, whose table says how their
arguments are read. There is no recursion, and the memo is a dictionary.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from io import SEEK_END, BytesIO
from typing import Any

from surgery.checkpoint.pickles.constructors import (
    as_key,
    constructor,
    global_name,
    is_known,
)
from surgery.checkpoint.pickles.inert import Global, Malformed, Opaque, Ordered

#: Gets the machine, and the argument behind the opcode where it has one.
Operation = Callable[..., object]
#: Reads an argument from where the file is.
Reader = Callable[[BytesIO], Any]

_HIGHEST_PROTOCOL = 5
_WIDEST_INDEX = 32
_SIZE_OF_A_SET = 27  # in pointers

_COPIED = frozenset({list, tuple, dict, Ordered, set, str, bytes})
_FREE_COPIES = 1_000_000
_COPIES_PER_BYTE = 2


class Machine:
    """One run: a stack, the stacks below open marks, the memo, the globals named. What takes from
    them what is not there raises LookupError.

    ``file`` is what the pickle is read from. ``opaque`` has the names of globals without a
    meaning here, in order.
    """

    def __init__(self, file: BytesIO, persistent: Callable[[Any], Any]) -> None:
        self.file = file
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.opaque: dict[str, None] = {}
        self._copied = 0

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def spend(self, elements: int) -> None:
        """Account for a copy of so many elements.

        A pickle can name one long list again and again, at a few bytes each time. Copies that
        exceed what the pickle's own length could hold are refused.
        """
        self._copied += elements
        if self._copied <= _FREE_COPIES:
            return
        if self._copied > _FREE_COPIES + _COPIES_PER_BYTE * self.file.tell():
            raise Malformed("it would grow far beyond its size")

    def find(self, module: Any, name: Any) -> None:
        """Push a global, by name only."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Malformed("a global whose name is not text")
        found = Global(global_name(module, name))
        if not is_known(found.name):
            self.opaque[found.name] = None
        self.stack.append(found)

    def call(self, function: Any, args: Any) -> None:
        """Push what calling ``function`` would give, as far as that is known without doing it."""
        if not isinstance(args, tuple):
            raise Malformed("arguments that are not a tuple")
        if isinstance(function, Global) and (construct := constructor(function.name)):
            self.spend(len(args) + sum([len(arg) for arg in args if type(arg) in _COPIED]))
            self.stack.append(construct(args))
        elif isinstance(function, Global | Opaque):
            self.stack.append(Opaque(function.name))
        else:
            raise Malformed(f"a call of a {type(function).__name__}")


def _proto(_: Machine, protocol: int) -> None:
    if protocol > _HIGHEST_PROTOCOL:
        raise Malformed(f"pickle protocol {protocol}; the highest known is {_HIGHEST_PROTOCOL}")


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
    machine.memo[index] = machine.stack[-1]


def _get(machine: Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


# Containers


def _empty_set(machine: Machine) -> None:
    """The one opcode of a single byte that takes hundreds of them in memory."""
    machine.spend(_SIZE_OF_A_SET)
    machine.stack.append(set())


def _of_marked(make: Callable[[list[Any]], Any]) -> Operation:
    def operation(machine: Machine) -> None:
        items = machine.pop_mark()
        machine.stack.append(make(items))

    return operation


def _short_tuple(length: int) -> Operation:
    def operation(machine: Machine) -> None:
        items = tuple(machine.stack[-length:])
        if len(items) < length:
            raise IndexError
        machine.stack[-length:] = (items,)

    return operation


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
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
    value, key = machine.stack.pop(), machine.stack.pop()
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


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.find(module, name)


def _extension(machine: Machine, number: int) -> None:
    """A global by its number in a registry of the process that wrote the file."""
    machine.find("copyreg", f"extension_{number}")


def _reduce(machine: Machine) -> None:
    args, function = machine.stack.pop(), machine.stack.pop()
    machine.call(function, args)


def _new_with_keywords(machine: Machine) -> None:
    machine.stack.pop()  # the keywords
    _reduce(machine)


def _inst(machine: Machine, named: tuple[str, str]) -> None:
    args = tuple(machine.pop_mark())
    machine.find(*named)
    machine.call(machine.stack.pop(), args)


def _obj(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.call(items[0], tuple(items[1:]))


def _build(machine: Machine) -> None:
    """Set attributes from a dictionary, or from a pair of them (``__dict__`` and slots)."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    if not isinstance(target, Opaque | Ordered):
        return  # a tensor's Python attributes, a list's: nothing here reads them
    for attributes in state if isinstance(state, tuple) else (state,):
        if attributes and isinstance(attributes, dict):
            machine.spend(len(attributes))
            if not isinstance(target.attributes, dict):
                target.attributes = {}
            target.attributes.update(attributes)


# Arguments that `pickletools` reads otherwise than Python 2 wrote them, with a warning, or of any
# width


def _line(file: BytesIO) -> bytes:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise Malformed("a line that does not end")
    return line[:-1]


def _two_names(file: BytesIO) -> tuple[str, str]:
    return _line(file).decode("utf-8"), _line(file).decode("utf-8")


def _index(file: BytesIO) -> int:
    """Numbers of any width can be chosen so that their hashes are equal: see ``as_key``."""
    index = int(_line(file))
    if index.bit_length() > _WIDEST_INDEX:
        raise Malformed("a number to remember by that no pickler counts to")
    return index


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


def _frame(file: BytesIO) -> int:
    length: int = pickletools.read_uint8(file)
    start = file.tell()
    left = file.seek(0, SEEK_END) - start
    if length > left:
        raise Malformed(f"a frame of {length:,} bytes, with {left:,} left")
    file.seek(start)
    return length


_READERS: Mapping[str, Reader] = {
    "FRAME": _frame,
    "STRING": _quoted,
    "GLOBAL": _two_names,
    "INST": _two_names,
    "PUT": _index,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
}

#: What is read for these is the value.
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"),
)

#: All opcodes but STOP, and what no file of weights has: text as a persistent id, and buffers
#: outside of the pickle.
_OPERATIONS: Mapping[str, Operation | None] = {
    **dict.fromkeys(_VALUES),
    "BYTEARRAY8": lambda machine, data: machine.stack.append(bytes(data)),
    "PROTO": _proto,
    "FRAME": lambda _machine, _length: None,  # checked as it is read
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine: _put(machine, len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "TUPLE": _of_marked(tuple),
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "LIST": _of_marked(list),
    "APPEND": _append,
    "APPENDS": _appends,
    "DICT": _of_marked(_paired),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "EMPTY_SET": _empty_set,
    "ADDITEMS": _appends,
    "FROZENSET": _of_marked(lambda items: {as_key(item) for item in items}),
    "GLOBAL": lambda machine, named: machine.find(*named),
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": _build,
    "BINPERSID": lambda machine: machine.stack.append(machine.persistent(machine.stack.pop())),
}


def _reader(opcode: pickletools.OpcodeInfo) -> Reader | None:
    return _READERS.get(opcode.name) or (opcode.arg.reader if opcode.arg else None)


#: By the opcode's byte: how its argument is read, None where it has none, and what is done, None
#: where the argument is the value.
OPCODES: Mapping[bytes, tuple[Reader | None, Operation | None]] = {
    opcode.code.encode("latin-1"): (_reader(opcode), _OPERATIONS[opcode.name])
    for opcode in pickletools.opcodes
    if opcode.name in _OPERATIONS
}
