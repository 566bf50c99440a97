"""A pickle to inert values (:mod:`surgery.checkpoint.pickles.inert`), protocols 0 to 5."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from surgery.checkpoint.pickles.inert import Malformed
from surgery.checkpoint.pickles.machine import Machine
from surgery.checkpoint.pickles.opcodes import OPCODES
from surgery.errors import CheckpointError
from surgery.wording import printable

_STOP = b"."


class CutShort(CheckpointError):
    """The bytes end before the pickle does."""


def no_persistent(_: Any) -> Any:
    """For pickles that refer to nothing outside themselves."""
    raise Malformed("a reference to something outside the pickle")


def unpickle(
    data: bytes, label: str, persistent: Callable[[Any], Any] = no_persistent, start: int = 0
) -> tuple[Any, tuple[str, ...], int]:
    """The pickled value, the globals without a meaning here in the order of their naming, and the
    number of bytes that the pickle takes of ``data``.

    ``persistent`` turns a persistent id into a value, and raises Malformed for one that it does
    not know. Raises CheckpointError with the byte where the pickle goes wrong: ``label`` is the
    file, and ``start`` where the data begin in it.
    """
    file = BytesIO(data)
    machine = Machine(file, persistent)
    at = 0
    try:
        while (code := file.read(1)) != _STOP:
            if code not in OPCODES:
                raise Malformed(f"opcode 0x{code.hex()} is not read" if code else "no end of it")
            read, operation = OPCODES[code]
            if read is None:
                operation(machine)
            else:
                operation(machine, read(file))
            at = file.tell()
        return machine.pop(), tuple(machine.opaque), file.tell()
    except (ValueError, OverflowError, LookupError) as error:
        missing = "less on the stack, or in the memo, than it takes"
        why = missing if isinstance(error, LookupError) else printable(error)
        problem = f"{label}: damaged at byte {start + at:,}: {why}"
        if file.tell() < len(data):
            raise CheckpointError(problem) from error
        raise CutShort(f"{problem}; have {start + len(data):,} bytes") from error
