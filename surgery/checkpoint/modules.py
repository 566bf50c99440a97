"""A whole pickled module (``torch.save(model)``) to its state dict, without its classes.

What ``nn.Module.state_dict`` does: parameters, persistent buffers, then the children in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surgery.checkpoint.inert import Malformed, Opaque

# A file can name one module as both children of another, over and over: forty such lines would
# unfold into 2 ** 40 names. No network is as deep or as large as this.
_DEEPEST = 200
_MOST_NAMES = 4_000_000


def is_module(value: Any) -> bool:
    """Whether a placeholder has the attributes of a module."""
    return isinstance(value, Opaque) and {"_parameters", "_modules"} <= value.attributes.keys()


def module_entries(module: Opaque) -> dict[str, Any]:
    """State-dict names to values. Raises Malformed for a module that holds itself."""
    entries: dict[str, Any] = {}
    waiting = [("", module, 0)]
    unfolded = 0
    while waiting:
        prefix, current, depth = waiting.pop()
        own = list(_own(current))
        unfolded += 1 + len(own)
        if depth > _DEEPEST or unfolded > _MOST_NAMES:
            raise Malformed("a module that holds itself, or modules beyond counting")
        entries.update((prefix + name, value) for name, value in own)
        children = [
            (f"{prefix}{name}.", child, depth + 1)
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
