"""What each pickle opcode does to the machine, in a table for each kind of argument: none, a number
of a fixed width, and all others, which the operation reads for itself.

Names, arguments and stack effects are those of ``pickletools.opcodes`` in the standard library.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from surgery.checkpoint.pickles.constructors import as_key, fill
from surgery.checkpoint.pickles.inert import Malformed, Opaque, Ordered
from surgery.checkpoint.pickles.machine import Machine

Operation = Callable[[Machine], object]
NumberOperation = Callable[[Machine, Any], object]

_HIGHEST_PROTOCOL = 5
_SIZE_OF_A_SET = 27  # in pointers


def _proto(_: Machine, protocol: int) -> None:
    if protocol > _HIGHEST_PROTOCOL:
        raise Malformed(f"pickle protocol {protocol}; the highest known is {_HIGHEST_PROTOCOL}")


def _frame(machine: Machine) -> None:
    length = machine.cursor.number(8)
    if length > machine.cursor.remaining:
        raise Malformed(f"a frame of {length:,} bytes, with {machine.cursor.remaining:,} left")


def _out_of_band(_: Machine) -> None:
    raise Malformed("a buffer that was kept outside the pickle")


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
    machine.memo[index] = machine.top()


def _get(machine: Machine, index: int) -> None:
    try:
        machine.stack.append(machine.memo[index])
    except KeyError:
        raise Malformed(f"nothing was remembered as {index}") from None


# Containers


def _empty_set(machine: Machine) -> None:
    """The one opcode of a single byte that takes hundreds of them in memory."""
    machine.spend(_SIZE_OF_A_SET)
    machine.push(set())


def _short_tuple(length: int) -> Operation:
    def push(machine: Machine) -> None:
        stack = machine.stack
        if len(stack) < length:
            raise Malformed("the stack is too short for a tuple")
        stack[-length:] = (tuple(stack[-length:]),)

    return push


def _append(machine: Machine) -> None:
    item = machine.pop()
    _extend(machine.top(), [item])


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _extend(machine.top(), items)


def _extend(target: Any, items: list[Any]) -> None:
    match target:
        case list():
            target.extend(items)
        case Opaque():
            target.items.extend(items)
        case set():
            target.update(as_key(item) for item in items)
        case _:
            raise Malformed(f"appending to a {type(target).__name__}")


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine.top(), {as_key(key): value})


def _set_items(machine: Machine) -> None:
    pairs = _paired(machine.pop_mark())
    _update(machine.top(), pairs)


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


def _named(machine: Machine) -> Any:
    """The global on the next two lines."""
    module, name = (machine.cursor.line().decode("utf-8") for _ in range(2))
    return machine.find(module, name)


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
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    made = machine.call(function, args)
    if isinstance(made, Opaque) and isinstance(keywords, dict):
        machine.spend(len(keywords))
        made.attributes.update(keywords)
    machine.push(made)


def _inst(machine: Machine) -> None:
    function = _named(machine)
    machine.push(machine.call(function, tuple(machine.pop_mark())))


def _obj(machine: Machine) -> None:
    items = machine.pop_mark()
    if not items:
        raise Malformed("an object without a class")
    machine.push(machine.call(items[0], tuple(items[1:])))


def _build(machine: Machine) -> None:
    """Set attributes from a dictionary, or from a pair of them (``__dict__`` and slots)."""
    state = machine.pop()
    target = machine.top()
    if not isinstance(target, Opaque | Ordered):
        return  # a tensor's Python attributes, a list's: nothing here reads them
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict):
            machine.spend(len(attributes))
            fill(target.attributes, attributes)


_PLAIN: Mapping[bytes, Operation] = {
    b"N": lambda machine: machine.stack.append(None),
    b"\x88": lambda machine: machine.stack.append(True),
    b"\x89": lambda machine: machine.stack.append(False),
    b")": lambda machine: machine.stack.append(()),
    b"]": lambda machine: machine.stack.append([]),
    b"}": lambda machine: machine.stack.append({}),
    b"\x8f": _empty_set,
    b"(": _mark,
    b"0": _pop,
    b"1": lambda machine: machine.pop_mark(),
    b"2": lambda machine: machine.push(machine.top()),
    b"\x94": lambda machine: _put(machine, len(machine.memo)),
    b"t": lambda machine: machine.push(tuple(machine.pop_mark())),
    b"\x85": _short_tuple(1),
    b"\x86": _short_tuple(2),
    b"\x87": _short_tuple(3),
    b"l": lambda machine: machine.push(machine.pop_mark()),
    b"a": _append,
    b"e": _appends,
    b"d": lambda machine: machine.push(_paired(machine.pop_mark())),
    b"s": _set_item,
    b"u": _set_items,
    b"\x90": _appends,
    b"\x91": lambda machine: machine.push({as_key(item) for item in machine.pop_mark()}),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_with_keywords,
    b"o": _obj,
    b"b": _build,
    b"Q": lambda machine: machine.push(machine.persistent(machine.pop())),
    b"\x97": _out_of_band,
    b"\x98": _out_of_band,
}


def _number(machine: Machine, value: float) -> None:
    machine.stack.append(value)


#: By opcode: the number's format in :mod:`struct`, and what is done with it.
_NUMBERED: Mapping[bytes, tuple[str, NumberOperation]] = {
    b"\x80": ("<B", _proto),
    b"J": ("<i", _number),
    b"K": ("<B", _number),
    b"M": ("<H", _number),
    b"G": (">d", _number),
    b"q": ("<B", _put),
    b"r": ("<I", _put),
    b"h": ("<B", _get),
    b"j": ("<I", _get),
    b"\x82": ("<B", _extension),
    b"\x83": ("<H", _extension),
    b"\x84": ("<I", _extension),
}


# Numbers and text that are written out


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin1(data: bytes) -> str:
    """Python 2's ``str``: bytes of no stated encoding, and latin-1 has a character for each."""
    return data.decode("latin-1")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal(data: bytes) -> int | bool:
    """Protocol 0 writes True as ``01`` and False as ``00``."""
    return data == b"01" if data in (b"00", b"01") else int(data)


# The escapes are those that the repr of Python 2's `str` has, and octal ones.
_QUOTED = re.compile(
    rb"""(['"])((?:[^\\]|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|[0-3]?[0-7]{1,2}))*)\1""", re.DOTALL
)


def _quoted(data: bytes) -> str:
    """The repr of a Python 2 string."""
    text = _QUOTED.fullmatch(data.strip())
    if text is None:
        raise Malformed("text without its quotes, or with an escape that is not known")
    return text[2].decode("unicode_escape")


#: By opcode: what a value is that is written as text up to the end of the line.
_LINES: Mapping[bytes, Callable[[bytes], Any]] = {
    b"I": _decimal,
    b"L": lambda line: int(line.removesuffix(b"L")),
    b"F": float,
    b"S": _quoted,
    b"V": lambda line: line.decode("raw-unicode-escape"),
}

#: By opcode: the bytes of a length, and what the bytes are that follow it, so many.
_COUNTED: Mapping[bytes, tuple[int, Callable[[bytes], Any]]] = {
    b"\x8a": (1, _signed),
    b"\x8b": (4, _signed),
    b"T": (4, _latin1),
    b"U": (1, _latin1),
    b"X": (4, _utf8),
    b"\x8c": (1, _utf8),
    b"\x8d": (8, _utf8),
    b"B": (4, bytes),
    b"C": (1, bytes),
    b"\x8e": (8, bytes),
    b"\x96": (8, bytes),
}


def _line(decode: Callable[[bytes], Any]) -> Operation:
    return lambda machine: machine.stack.append(decode(machine.cursor.line()))


def _counted(size: int, decode: Callable[[bytes], Any]) -> Operation:
    def push(machine: Machine) -> None:
        cursor = machine.cursor
        machine.stack.append(decode(cursor.take(cursor.number(size))))

    return push


#: How a number is read from a window, its width in bytes, and what is done with it.
Numbered = tuple[Callable[[bytes, int], tuple[Any, ...]], int, NumberOperation]


def _numbered(opcode: bytes) -> Numbered | None:
    if opcode not in _NUMBERED:
        return None
    form, operation = _NUMBERED[opcode]
    return struct.Struct(form).unpack_from, struct.calcsize(form), operation


#: Operations by opcode, without an argument and with a number; None where there is none.
PLAIN: Sequence[Operation | None] = [_PLAIN.get(bytes([code])) for code in range(256)]
NUMBERED: Sequence[Numbered | None] = [_numbered(bytes([code])) for code in range(256)]

#: All others except STOP. They read their argument with the machine's cursor.
OTHERS: Mapping[int, Operation] = {
    **{opcode[0]: _line(decode) for opcode, decode in _LINES.items()},
    **{opcode[0]: _counted(*counted) for opcode, counted in _COUNTED.items()},
    ord("p"): lambda machine: _put(machine, int(machine.cursor.line())),
    ord("g"): lambda machine: _get(machine, int(machine.cursor.line())),
    ord("c"): lambda machine: machine.push(_named(machine)),
    ord("i"): _inst,
    ord("P"): lambda machine: machine.push(machine.persistent(_latin1(machine.cursor.line()))),
    0x95: _frame,
}
