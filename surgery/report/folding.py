"""Tensors as rows, repeated layers folded into one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from surgery.collapse import Collapsed, Kind, collapse_kinds
from surgery.report.tables import Cell, number
from surgery.specs import TensorSpec
from surgery.wording import counted, shape_text

TENSORS = ("tensor", number("count"), "shape")

Row: TypeAlias = tuple[Cell, ...]


def fold_tensors(
    tensors: Iterable[tuple[TensorSpec, Kind]],
) -> list[tuple[Row, tuple[str, ...], Kind]]:
    """(cells of :data:`TENSORS`, the names, their kind) of tensors of one kind (a dtype, a reason),
    repeated layers folded.
    """
    known = {spec.name: (spec, kind) for spec, kind in tensors}
    folded = collapse_kinds({name: kind for name, (_, kind) in known.items()})
    return [
        ((*named(each), shapes_text(known[name][0] for name in each.names)), each.names, kind)
        for each, kind in folded
    ]


def tensor_rows(tensors: Iterable[tuple[TensorSpec, str]]) -> list[Row]:
    """Rows of :data:`TENSORS` and a text that all tensors of a row share."""
    return [(*cells, text) for cells, _, text in fold_tensors(tensors)]


def named(folded: Collapsed) -> Row:
    """The first two cells of :data:`TENSORS`."""
    return folded.pattern, len(folded.names)


def shapes_text(specs: Iterable[TensorSpec]) -> str:
    """One shape as it is, several as their number."""
    first, *others = dict.fromkeys(spec.shape for spec in specs)
    return counted(1 + len(others), "shape") if others else shape_text(first)


def broken_notes(overflowed: Iterable[tuple[str, int]]) -> list[str]:
    return [f"the cast broke {count:,} values of {name}" for name, count in overflowed]
