"""The outline of an architecture: names and shapes alone, small enough to keep 1,500 of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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


def from_columns(data: object) -> tuple[Outline, ...]:
    """The inverse. Any other data raise ValueError."""
    names, shapes, rows = fields(data, "names", "shapes", "rows")
    names = texts(names)
    shapes = [tuple(map(whole_number, items(shape))) for shape in items(shapes)]
    return tuple(_outline(row, names, shapes) for row in items(rows))


def _outline(row: object, names: Sequence[str], shapes: Sequence[Shape]) -> Outline:
    architecture, heads, name_at, shape_at = items(row)
    pairs = zip(map(whole_number, items(name_at)), map(whole_number, items(shape_at)), strict=True)
    try:
        tensors = {names[name]: shapes[shape] for name, shape in pairs}
    except IndexError as error:
        raise ValueError("a row goes beyond the names or the shapes") from error
    return Outline(text(architecture), tensors, texts(heads))
