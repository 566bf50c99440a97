"""What each pickle opcode does to the machine: one small function each, and the tables of them.

Names, arguments and stack effects are those of ``pickletools.opcodes`` in the standard library.
A table for each kind of argument: none, a number of a fixed width, and all others, which the
operation reads for itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.pickles.constructors import as_key, fill
from surgery.checkpoint.pickles.inert import Malformed, Opaque, Ordered

if TYPE_CHECKING:
    from surgery.checkpoint.pickles.machine import Machine

Operation = Callable[["Machine"], None]
NumberOperation = Callable[["Machine", Any], None]
Decode = Callable[[bytes], Any]

_HIGHEST_PROTOCOL = 5
_SIZE_OF_A_SET = 27  # in pointers


# Framing


def _proto(_: Machine, protocol: int) -> None:
    if protocol > _HIGHEST_PROTOCOL:
        raise Malformed(f"pickle protocol {protocol}; the highest known is {_HIGHEST_PROTOCOL}")


def _frame(machine: Machine) -> None:
    length = machine.cursor.number(8)
    if length > machine.cursor.remaining:
        raise Malformed(f"a frame of {length:,} bytes, with {machine.cursor.remaining:,} left")


# Constants, numbers, text


def _constant(value: Any) -> Operation:
    def push(machine: Machine) -> None:
        machine.stack.append(value)

    return push


def _number(machine: Machine, value: float) -> None:
    machine.stack.append(value)


def _counted(size: int, decode: Decode) -> Operation:
    """A value written as its length, in ``size`` bytes, and that many bytes."""

    def push(machine: Machine) -> None:
        cursor = machine.cursor
        machine.stack.append(decode(cursor.take(cursor.number(size))))

    return push


def _line(decode: Decode) -> Operation:
    """A value written as text up to the end of the line, as protocol 0 does."""

    def push(machine: Machine) -> None:
        machine.stack.append(decode(machine.cursor.line()))

    return push


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin1(data: bytes) -> str:
    """Python 2's ``str``: bytes of no stated encoding, and latin-1 has a character for each."""
    return data.decode("latin-1")


def _raw_unicode(data: bytes) -> str:
    return data.decode("raw-unicode-escape")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal(data: bytes) -> int | bool:
    """Protocol 0 writes True as ``01`` and False as ``00``."""
    return data == b"01" if data in (b"00", b"01") else int(data)


def _long_decimal(data: bytes) -> int:
    return int(data.removesuffix(b"L"))


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
}


def _quoted(data: bytes) -> str:
    """The repr of a Python 2 string."""
    data = data.strip()
    if len(data) < 2 or data[:1] not in (b"'", b'"') or data[-1:] != data[:1]:
        raise Malformed("text without its quotes")
    return _latin1(_ESCAPE.sub(_unescaped, data[1:-1]))


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) > 1 and code.startswith(b"x"):
        return bytes([int(code[1:], 16)])
    if code.isdigit() and code < b"8":
        return bytes([int(code, 8) & 0xFF])
    return _ESCAPED.get(code, code)


# The stack and the memo


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _dup(machine: Machine) -> None:
    machine.push(machine.top())


def _put(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _put_line(machine: Machine) -> None:
    _put(machine, int(machine.cursor.line()))


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _get(machine: Machine, index: int) -> None:
    try:
        machine.stack.append(machine.memo[index])
    except KeyError:
        raise Malformed(f"nothing was remembered as {index}") from None


def _get_line(machine: Machine) -> None:
    _get(machine, int(machine.cursor.line()))


# Containers


def _empty(kind: Callable[[], Any]) -> Operation:
    def push(machine: Machine) -> None:
        machine.stack.append(kind())

    return push


def _empty_set(machine: Machine) -> None:
    """The one opcode of a single byte that takes hundreds of them in memory."""
    machine.spend(_SIZE_OF_A_SET)
    machine.push(set())


def _tuple(machine: Machine) -> None:
    machine.push(tuple(machine.pop_mark()))


def _short_tuple(length: int) -> Operation:
    def push(machine: Machine) -> None:
        stack = machine.stack
        if len(stack) < length:
            raise Malformed("the stack is too short for a tuple")
        stack[-length:] = (tuple(stack[-length:]),)

    return push


def _list(machine: Machine) -> None:
    machine.push(machine.pop_mark())


def _dict(machine: Machine) -> None:
    machine.push(_paired(machine.pop_mark()))


def _frozenset(machine: Machine) -> None:
    machine.push({as_key(item) for item in machine.pop_mark()})


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


def _global(machine: Machine) -> None:
    module, name = (machine.cursor.line().decode("utf-8") for _ in range(2))
    machine.push(machine.find(module, name))


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
    _global(machine)
    function = machine.pop()
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


def _persistent_line(machine: Machine) -> None:
    machine.push(machine.persistent(_latin1(machine.cursor.line())))


def _persistent(machine: Machine) -> None:
    machine.push(machine.persistent(machine.pop()))


def _out_of_band(_: Machine) -> None:
    raise Malformed("a buffer that was kept outside the pickle")


_PLAIN: Mapping[bytes, Operation] = {
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _dup,
    b"\x94": _memoize,
    b"t": _tuple,
    b"\x85": _short_tuple(1),
    b"\x86": _short_tuple(2),
    b"\x87": _short_tuple(3),
    b"]": _empty(list),
    b"l": _list,
    b"a": _append,
    b"e": _appends,
    b"}": _empty(dict),
    b"d": _dict,
    b"s": _set_item,
    b"u": _set_items,
    b"\x8f": _empty_set,
    b"\x90": _appends,
    b"\x91": _frozenset,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_with_keywords,
    b"o": _obj,
    b"b": _build,
    b"Q": _persistent,
    b"\x97": _out_of_band,
    b"\x98": _out_of_band,
}

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

_OTHERS: Mapping[bytes, Operation] = {
    b"\x95": _frame,
    b"I": _line(_decimal),
    b"L": _line(_long_decimal),
    b"\x8a": _counted(1, _signed),
    b"\x8b": _counted(4, _signed),
    b"F": _line(float),
    b"S": _line(_quoted),
    b"T": _counted(4, _latin1),
    b"U": _counted(1, _latin1),
    b"V": _line(_raw_unicode),
    b"X": _counted(4, _utf8),
    b"\x8c": _counted(1, _utf8),
    b"\x8d": _counted(8, _utf8),
    b"B": _counted(4, bytes),
    b"C": _counted(1, bytes),
    b"\x8e": _counted(8, bytes),
    b"\x96": _counted(8, bytes),
    b"p": _put_line,
    b"g": _get_line,
    b"c": _global,
    b"i": _inst,
    b"P": _persistent_line,
}


#: How a number is read from a window, its width in bytes, and what is done with it.
Numbered = tuple[Callable[[bytes, int], tuple[Any, ...]], int, NumberOperation]


def _numbered(form: str, operation: NumberOperation) -> Numbered:
    number = struct.Struct(form)
    return number.unpack_from, number.size, operation


#: Operations by opcode, without an argument and with a number; None where there is none.
PLAIN: Sequence[Operation | None] = [_PLAIN.get(bytes([code])) for code in range(256)]
NUMBERED: Sequence[Numbered | None] = [
    _numbered(*_NUMBERED[opcode]) if (opcode := bytes([code])) in _NUMBERED else None
    for code in range(256)
]

#: All others except STOP. They read their argument with the machine's cursor.
OTHERS: Mapping[int, Operation] = {code[0]: operation for code, operation in _OTHERS.items()}
