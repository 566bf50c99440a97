"""Public names that are imported on first use, so that a package alone does not import torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def on_first_use(package: str, public: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """A package's ``__getattr__``: ``public`` are the names that each module defines."""
    homes = {name: module for module, names in public.items() for name in names}

    def public_name(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return public_name
