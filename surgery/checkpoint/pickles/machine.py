"""A pickle machine that imports nothing and runs nothing.

Reads protocols 0 to 5 into inert values (:mod:`surgery.checkpoint.pickles.inert`): plain Python
containers and scalars, placeholders for everything else. There is no recursion, the memo is a
dictionary, and every length is checked against what remains of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from surgery.checkpoint.pickles.constructors import CONSTRUCTORS, global_name, is_known
from surgery.checkpoint.pickles.cursor import Cursor
from surgery.checkpoint.pickles.inert import Global, Malformed, Opaque, Ordered
from surgery.checkpoint.pickles.opcodes import NUMBERED, OTHERS, PLAIN

_STOP = ord(".")

_COPIED = frozenset({list, tuple, dict, Ordered, set, str, bytes})
_FREE_COPIES = 1_000_000
_COPIES_PER_BYTE = 2


def no_persistent(_: Any) -> Any:
    """For pickles that refer to nothing outside themselves."""
    raise Malformed("a reference to something outside the pickle")


class Machine:
    """The state of one run: a stack, the stacks below open marks, the memo, the globals named.

    ``persistent`` turns a persistent id into a value, and raises Malformed for one that it
    does not know. ``opaque`` has the names of globals without a meaning here, in order.
    """

    def __init__(self, cursor: Cursor, persistent: Callable[[Any], Any] = no_persistent) -> None:
        self.cursor = cursor
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.opaque: dict[str, None] = {}
        self._copied = 0

    def run(self) -> Any:
        """The pickled value. Raises CheckpointError with the byte where the pickle goes wrong."""
        cursor = self.cursor
        window, start, at, last = cursor.ahead()
        while True:
            if at > last:
                cursor.move(at)
                window, start, at, last = cursor.ahead()
            code = window[at]
            try:
                if plain := PLAIN[code]:
                    plain(self)
                    at += 1
                elif numbered := NUMBERED[code]:
                    read, width, operation = numbered
                    operation(self, read(window, at + 1)[0])
                    at += 1 + width
                else:
                    cursor.move(at + 1)
                    if code == _STOP:
                        return self.pop()
                    self._other(code)
                    window, start, at, last = cursor.ahead()
            except struct.error as error:
                raise cursor.cut_short(start + at + 1, width) from error
            except (ValueError, OverflowError) as error:
                raise cursor.damaged(start + at, str(error)) from error

    def _other(self, code: int) -> None:
        if code not in OTHERS:
            raise Malformed(f"{code:#04x} is no pickle opcode")
        OTHERS[code](self)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        try:
            return self.stack.pop()
        except IndexError:
            raise Malformed("the stack is empty") from None

    def top(self) -> Any:
        try:
            return self.stack[-1]
        except IndexError:
            raise Malformed("the stack is empty") from None

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark."""
        if not self.marks:
            raise Malformed("no mark was set")
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
        if self._copied > _FREE_COPIES + _COPIES_PER_BYTE * self.cursor.position:
            raise Malformed("it would grow far beyond its size")

    def find(self, module: Any, name: Any) -> Global:
        """A global by name only."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Malformed("a global whose name is not text")
        found = Global(global_name(module, name))
        if not is_known(found.name):
            self.opaque[found.name] = None
        return found

    def call(self, function: Any, args: Any) -> Any:
        """What calling ``function`` would give, as far as that is known without doing it."""
        if not isinstance(args, tuple):
            raise Malformed("arguments that are not a tuple")
        if isinstance(function, Global) and function.name in CONSTRUCTORS:
            self._spend_on(args)
            return CONSTRUCTORS[function.name](args)
        if isinstance(function, Global | Opaque):
            return Opaque(function.name, args)
        raise Malformed(f"a call of a {type(function).__name__}")

    def _spend_on(self, args: tuple[Any, ...]) -> None:
        """Before each argument is looked at: a tuple of a million may be passed a million times."""
        self.spend(len(args))
        elements = 0
        for arg in args:
            if type(arg) in _COPIED:
                elements += len(arg)
        self.spend(elements)
