"""Names and specs of repeated layers, folded into few rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

from surgery.collapse import collapse
from surgery.report.tables import Column
from surgery.specs import TensorSpec

TENSORS = (Column("tensor"), Column("count", number=True), Column("shape"))


Reason = TypeVar("Reason", bound=Hashable)


def collapsed_rows(
    specs: Iterable[tuple[TensorSpec, str]],
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (pattern, str(len(names)), shape, reason)
        for pattern, names, shape, reason in collapsed(specs)
    )


def collapsed(
    specs: Iterable[tuple[TensorSpec, Reason]],
) -> list[tuple[str, tuple[str, ...], str, Reason]]:
    """(pattern, names, shape, reason) of tensors that share a reason, repeated layers folded."""
    by_reason: dict[Reason, dict[str, TensorSpec]] = {}
    for spec, reason in specs:
        by_reason.setdefault(reason, {})[spec.name] = spec
    return [
        (folded.pattern, folded.names, shapes_text(tensors[name] for name in folded.names), reason)
        for reason, tensors in by_reason.items()
        for folded in collapse(tensors)
    ]


def collapsed_names(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((folded.pattern, f"{len(folded.names):,}") for folded in collapse(names))


def shapes_text(specs: Iterable[TensorSpec]) -> str:
    """One shape as it is, several as their number."""
    shapes = dict.fromkeys(spec.shape for spec in specs)
    if len(shapes) > 1:
        return f"{len(shapes)} shapes"
    return f"({', '.join(map(str, next(iter(shapes))))})"


def patterns(names: Iterable[str]) -> str:
    patterns = [folded.pattern for folded in collapse(dict.fromkeys(names))]
    more = f" and {len(patterns) - 6} more" if len(patterns) > 6 else ""
    return f"{', '.join(patterns[:6])}{more}"


def first_pattern(names: Iterable[str]) -> str:
    patterns = collapse(dict.fromkeys(names))
    more = f" and {len(patterns) - 1} more" if len(patterns) > 1 else ""
    return f"{patterns[0].pattern}{more}"
