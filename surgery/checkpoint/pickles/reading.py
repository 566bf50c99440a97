"""A pickle to inert values (:mod:`surgery.checkpoint.pickles.inert`), protocols 0 to 5."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from surgery.checkpoint.pickles.inert import Malformed
from surgery.checkpoint.pickles.machine import OPCODES, Machine
from surgery.errors import CheckpointError
from surgery.wording import printable

_STOP = b"."


class CutShort(CheckpointError):
    """The bytes end before the pickle does."""


def unpickle(
    data: bytes, label: str, persistent: Callable[[Any], Any], start: int = 0
) -> tuple[Any, tuple[str, ...], int]:
    """The pickled value, the globals without a meaning here in the order of their naming, and the
    number of bytes that the pickle takes of ``data``.

    ``persistent`` turns a persistent id into a value, and raises Malformed for one that it does
    not know. Raises CheckpointError with the byte where the pickle goes wrong: ``label`` is the
    file, and ``start`` where the data begin in it.
    """
    file = BytesIO(data)
    machine = Machine(file, persistent)
    try:
        _run(machine)
        return machine.stack.pop(), tuple(machine.opaque), file.tell()
    except (ValueError, OverflowError, LookupError) as error:
        missing = "less on the stack, or in the memo, than it takes"
        why = missing if isinstance(error, LookupError) else printable(error)
        end = file.tell()
        problem = f"{label}: damaged at byte {start + _last_opcode(file):,}: {why}"
        if end < len(data):
            raise CheckpointError(problem) from error
        raise CutShort(f"{problem}; have {start + len(data):,} bytes") from error


def _run(machine: Machine) -> None:
    """Everything up to STOP."""
    file, read, opcodes = machine.file, machine.file.read, OPCODES  # looked up once
    while (code := read(1)) != _STOP:
        try:
            read_argument, operation = opcodes[code]
        except KeyError:
            problem = f"opcode 0x{code.hex()} is not read" if code else "no end of it"
            raise Malformed(problem) from None
        if operation is None:
            assert read_argument is not None
            machine.stack.append(read_argument(file))
        elif read_argument is None:
            operation(machine)
        else:
            operation(machine, read_argument(file))


def _last_opcode(file: BytesIO) -> int:
    """Where the opcode begins that was read last, in whole or in part."""
    at, end = 0, file.tell()
    file.seek(0)
    try:
        while file.tell() < end:
            at = file.tell()
            read_argument, _ = OPCODES.get(file.read(1), (None, None))
            if read_argument is not None:
                read_argument(file)
    except (ValueError, OverflowError):  # as before
        pass
    return at
