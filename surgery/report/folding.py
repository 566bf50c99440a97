"""Tensors as rows, repeated layers folded into one."""

from __future__ import annotations

from collections.abc import Iterable

from surgery.collapse import Collapsed, Kind, collapse_kinds
from surgery.report.tables import Column
from surgery.specs import TensorSpec
from surgery.wording import counted, shape_text

TENSORS = (Column("tensor"), Column("count", number=True), Column("shape"))

Cells = tuple[str, ...]


def fold_tensors(
    tensors: Iterable[tuple[TensorSpec, Kind]],
) -> list[tuple[Cells, tuple[str, ...], Kind]]:
    """(cells of :data:`TENSORS`, the names, their kind) of tensors of one kind (a dtype, a reason),
    repeated layers folded.
    """
    known = {spec.name: (spec, kind) for spec, kind in tensors}
    folded = collapse_kinds({name: kind for name, (_, kind) in known.items()})
    return [
        ((*named(each), shapes_text(known[name][0] for name in each.names)), each.names, kind)
        for each, kind in folded
    ]


def tensor_rows(tensors: Iterable[tuple[TensorSpec, str]]) -> tuple[Cells, ...]:
    """Rows of :data:`TENSORS` and a text that all tensors of a row share."""
    return tuple((*cells, text) for cells, _, text in fold_tensors(tensors))


def named(folded: Collapsed) -> Cells:
    """The first two cells of :data:`TENSORS`."""
    return folded.pattern, f"{len(folded.names):,}"


def shapes_text(specs: Iterable[TensorSpec]) -> str:
    """One shape as it is, several as their number."""
    first, *others = dict.fromkeys(spec.shape for spec in specs)
    return counted(1 + len(others), "shape") if others else shape_text(first)


def broken_notes(overflowed: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"the cast broke {count:,} values of {name}" for name, count in overflowed)
