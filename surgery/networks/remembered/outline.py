"""The outline of an architecture: names and shapes alone, small enough to keep 1,500 of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from surgery.json_values import fields, items, text, texts, whole_number

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """What a state dict of ``architecture`` (``"timm:resnet50"``) is called and how large it is.

    ``tensors`` are the floating ones by name, without wrapper segments: counters and index tables
    come and go between releases, and say nothing that the weights do not. ``heads`` are the paths
    of the head's layers, empty where they are not known or there are none.
    """

    architecture: str
    tensors: Mapping[str, Shape]
    heads: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal outline."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Outline:
        """The inverse. Any other data raise ValueError."""
        architecture, tensors, heads = fields(data, "architecture", "tensors", "heads")
        if not isinstance(tensors, dict):
            raise ValueError("expected an object of shapes")
        shapes = {name: tuple(map(whole_number, items(size))) for name, size in tensors.items()}
        return cls(text(architecture), shapes, texts(heads))
