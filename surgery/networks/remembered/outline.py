"""The outline of an architecture: names and shapes alone, small enough to keep 1,500 of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """What a state dict of ``architecture`` (``"timm:resnet50"``) is called and how large it is.

    ``tensors`` are the floating ones by name, without wrapper segments: counters and index tables
    come and go between releases, and say nothing that the weights do not. ``heads`` are the paths
    of the head's layers, empty where they cannot be told or there are none.
    """

    architecture: str
    tensors: Mapping[str, Shape]
    heads: tuple[str, ...] = ()


def to_columns(outlines: Iterable[Outline]) -> dict[str, Any]:
    """Outlines as JSON values, each name and each shape written once. Layers share most of both."""
    names: dict[str, int] = {}
    shapes: dict[Shape, int] = {}
    rows = [
        [
            outline.architecture,
            list(outline.heads),
            [names.setdefault(name, len(names)) for name in outline.tensors],
            [shapes.setdefault(shape, len(shapes)) for shape in outline.tensors.values()],
        ]
        for outline in outlines
    ]
    return {"names": list(names), "shapes": [list(shape) for shape in shapes], "rows": rows}


def from_columns(data: Mapping[str, Any]) -> tuple[Outline, ...]:
    """The inverse. Other data raise KeyError, IndexError, TypeError or ValueError."""
    names = [str(name) for name in data["names"]]
    shapes = [tuple(map(int, shape)) for shape in data["shapes"]]
    return tuple(_outline(row, names, shapes) for row in data["rows"])


def _outline(row: Sequence[Any], names: Sequence[str], shapes: Sequence[Shape]) -> Outline:
    architecture, heads, name_at, shape_at = row
    pairs = zip(name_at, shape_at, strict=True)
    tensors = {names[name]: shapes[shape] for name, shape in pairs}
    return Outline(str(architecture), tensors, tuple(map(str, heads)))
