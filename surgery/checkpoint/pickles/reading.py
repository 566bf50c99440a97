"""A pickle to inert values (:mod:`surgery.checkpoint.pickles.inert`), protocols 0 to 5."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from surgery.checkpoint.pickles.cursor import Cursor
from surgery.checkpoint.pickles.inert import Malformed
from surgery.checkpoint.pickles.machine import Machine
from surgery.checkpoint.pickles.opcodes import NUMBERED, OTHERS, PLAIN

_STOP = ord(".")


def no_persistent(_: Any) -> Any:
    """For pickles that refer to nothing outside themselves."""
    raise Malformed("a reference to something outside the pickle")


def unpickle(
    cursor: Cursor, persistent: Callable[[Any], Any] = no_persistent
) -> tuple[Any, tuple[str, ...]]:
    """The pickled value, and the globals without a meaning here, in the order of their naming.

    ``persistent`` turns a persistent id into a value, and raises Malformed for one that it does
    not know. Raises CheckpointError with the byte where the pickle goes wrong.
    """
    machine = Machine(cursor, persistent)
    data, at = cursor.data, cursor.at
    while True:
        try:
            code = data[at]
        except IndexError:
            cursor.at = at
            raise cursor.cut_short(1) from None
        try:
            if plain := PLAIN[code]:
                plain(machine)
                at += 1
            elif numbered := NUMBERED[code]:
                read, width, operation = numbered
                operation(machine, read(data, at + 1)[0])
                at += 1 + width
            else:
                cursor.at = at + 1
                if code == _STOP:
                    return machine.pop(), tuple(machine.opaque)
                if code not in OTHERS:
                    raise Malformed(f"{code:#04x} is no pickle opcode")
                OTHERS[code](machine)
                at = cursor.at
        except struct.error as error:
            cursor.at = at + 1
            raise cursor.cut_short(width) from error
        except (ValueError, OverflowError) as error:
            cursor.at = at
            raise cursor.damaged(str(error)) from error
