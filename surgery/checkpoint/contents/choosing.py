"""One of the state dicts that a file or a mapping holds, by its key."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.errors import CheckpointError, did_you_mean
from surgery.wording import counted, first_lines, printable

#: The key of the outermost mapping, where it is a state dict with others inside it.
TOP = "."

Key = str | None


def choose(
    label: str, states: Mapping[Key, int], others: Mapping[str, str], key: str | None
) -> Key:
    """The key of the only state dict, or of the one that ``key`` asks for; nothing is chosen
    silently. ``states`` has the number of tensors in each, ``others`` what lies beside them.

    Raises CheckpointError that lists the candidates.
    """
    keys = list(states)
    if key is None and len(keys) == 1:
        return keys[0]
    for found in keys:
        if key is not None and is_at(key, found):
            return found
    candidates = first_lines([_candidate(found, tensors) for found, tensors in states.items()], 20)
    if key is not None and key in others:
        problem = f"{printable(key)} holds {others[key]}, no state dict"
    elif key is not None:
        near = did_you_mean(key, [*filter(None, keys), *others])
        problem = f"no state dict has the key {printable(key)}{printable(near)}"
    elif keys:
        problem = f"holds {len(keys)} state dicts; choose one with key= or --key"
    else:
        problem = "holds no state dict"
        beside = [f"{printable(name)}: {what}" if name else what for name, what in others.items()]
        candidates = first_lines(beside, 20)
    raise CheckpointError(f"{label}: {problem}", candidates)


def is_at(key: str, found: Key) -> bool:
    """Whether ``key``, as a person writes it, asks for the state dict found at the other one."""
    return found == key or (found is None and key == TOP)


def _candidate(key: Key, tensors: int) -> str:
    where = TOP if key is None else printable(key)
    return f"{where}: {counted(tensors, 'tensor')}{' (the file itself)' if key is None else ''}"
