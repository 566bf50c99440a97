"""The state of a pickle machine that imports nothing and runs nothing.

There is no recursion, and the memo is a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from surgery.checkpoint.pickles.constructors import constructor, global_name, is_known
from surgery.checkpoint.pickles.inert import Global, Malformed, Opaque, Ordered

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

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

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
        if isinstance(function, Global) and (construct := constructor(function.name)):
            # Before each is looked at: a tuple of a million may be passed a million times.
            self.spend(len(args))
            self.spend(sum([len(arg) for arg in args if type(arg) in _COPIED]))
            return construct(args)
        if isinstance(function, Global | Opaque):
            return Opaque(function.name)
        raise Malformed(f"a call of a {type(function).__name__}")
