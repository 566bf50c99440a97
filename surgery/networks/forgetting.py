"""A network that is run and stays as it was, whatever it notes down on the way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """What the modules note down while they run is gone afterwards, and what they had is back.

    Some keep what they once computed from their weights (LeViT's attention biases in eval mode)
    and would answer the next values with the last ones. Dicts, lists and sets stay the same
    objects: a hook's handle knows its hook by one.
    """
    before = [
        (vars(module), {name: (value, _content(value)) for name, value in vars(module).items()})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for attributes, noted in before:
            attributes.clear()
            for name, (value, content) in noted.items():
                attributes[name] = value
                _restore(value, content)


def _content(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list | set) else None


def _restore(value: Any, content: Any) -> None:
    if isinstance(value, dict | set):
        value.clear()
        value.update(content)
    elif isinstance(value, list):
        value[:] = content
