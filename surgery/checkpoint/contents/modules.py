"""A whole pickled module (``torch.save(model)``) to its state dict, without its classes.

What ``nn.Module.state_dict`` does: parameters, persistent buffers, then the children in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surgery.checkpoint.pickles.inert import Malformed, Opaque

# A file can name one module as both children of another, over and over: forty such lines would
# unfold into 2 ** 40 names, and one module that holds itself into names without end. Networks
# share a few layers a few times.
_FREE_VISITS = 20_000
_VISITS_EACH = 16
_LONGEST_PATH = 4096


class Unfolding:
    """How often the modules of one file were visited, against how many there are.

    One for a whole file: a thousand small modules can each hold the same large one.
    """

    def __init__(self) -> None:
        self._visits = 0
        self._size = 0
        self._known: set[int] = set()

    def visit(self, module: Opaque, own: int) -> None:
        """Account for a module with ``own`` tensors. Raises Malformed beyond all reason."""
        self._visits += 1 + own
        if id(module) not in self._known:
            self._known.add(id(module))
            self._size += 1 + own
        if self._visits > _FREE_VISITS + _VISITS_EACH * self._size:
            raise Malformed("a module that holds itself, or modules beyond counting")


def is_module(value: Any) -> bool:
    """Whether a placeholder has the attributes of a module."""
    return isinstance(value, Opaque) and {"_parameters", "_modules"} <= value.attributes.keys()


def module_entries(module: Opaque, unfolding: Unfolding) -> dict[str, Any]:
    """State-dict names to values. Raises Malformed for a module that holds itself."""
    entries: dict[str, Any] = {}
    waiting = [("", module)]
    while waiting:
        prefix, current = waiting.pop()
        if len(prefix) > _LONGEST_PATH:
            raise Malformed("a module that holds itself, or modules nested too deep")
        own = list(_own(current))
        unfolding.visit(current, len(own))
        entries.update((prefix + name, value) for name, value in own)
        children = [
            (f"{prefix}{name}.", child)
            for name, child in _members(current, "_modules")
            if is_module(child)
        ]
        waiting.extend(reversed(children))
    return entries


def _own(module: Opaque) -> Iterator[tuple[str, Any]]:
    yield from _members(module, "_parameters")
    hidden = module.attributes.get("_non_persistent_buffers_set")
    for name, value in _members(module, "_buffers"):
        if not (isinstance(hidden, set) and name in hidden):
            yield name, value


def _members(module: Opaque, attribute: str) -> Iterator[tuple[str, Any]]:
    members = module.attributes.get(attribute)
    if isinstance(members, dict):
        for name, value in members.items():
            if isinstance(name, str) and value is not None:
                yield name, value
