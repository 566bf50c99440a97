"""What two checkpoints do not share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from surgery.collapse import Collapsed, collapse
from surgery.report.folding import TENSORS, collapsed_names, collapsed_rows, shapes_text
from surgery.report.tables import Column, Report, Table, pairs_table
from surgery.report.texts import counted
from surgery.specs import TensorSpec, is_floating

if TYPE_CHECKING:
    from surgery.checkpoint.difference import Difference, ValueDifference


def difference_report(
    difference: Difference, *, names: tuple[str, str] = ("the first", "the second")
) -> Report:
    """What differs, kind by kind; first lines that say whether anything does, and where most."""
    equal = collapsed_names(difference.equal) if difference.values else ()
    return Report(
        headline=(_counts_text(difference, names), *_largest_text(difference.values)),
        tables=(
            _specs_table(f"only in {names[0]}", difference.only_first),
            _specs_table(f"only in {names[1]}", difference.only_second),
            _respecified_table(difference, names),
            _values_table(difference),
            Table("equal", TENSORS[:2], equal, "good"),
            pairs_table("cannot be compared", difference.incomparable),
        ),
        notes=tuple(f"{name} is no tensor and was not compared" for name in difference.others),
    )


def _counts_text(difference: Difference, names: tuple[str, str]) -> str:
    equal, values = len(difference.equal), len(difference.values)
    respecified = len(difference.respecified)
    parts = [f"{equal:,} equal", f"{values:,} with other values"]
    parts += [f"{respecified:,} of another shape or dtype"] if respecified else []
    both = counted(equal + values + respecified, "tensor")
    alone = (
        f"{len(specs):,} only in {name}"
        for name, specs in zip(names, (difference.only_first, difference.only_second), strict=True)
        if specs
    )
    unread = len(difference.incomparable)
    unreadable = [f"{unread:,} cannot be compared"] if unread else []
    return "; ".join(
        (f"{names[0]} and {names[1]}: {both} in both, {', '.join(parts)}", *alone, *unreadable)
    )


def _largest_text(values: Sequence[ValueDifference]) -> Iterator[str]:
    """The largest differences of all, which no folding may hide; but a count of batches is not
    asked for where weights differ.
    """
    floating = [value for value in values if is_floating(value.dtype)]
    asked = floating or values
    if asked:
        most = max(asked, key=lambda value: value.largest)
        relative = max(asked, key=lambda value: value.relative)
        yield (
            f"the largest difference{' of floating numbers' if len(asked) < len(values) else ''} "
            f"is {most.largest:.3g} in {most.name}; relative to its tensor {relative.relative:.3g} "
            f"in {relative.name}"
        )


def _specs_table(title: str, specs: Sequence[TensorSpec]) -> Table:
    rows = collapsed_rows((spec, spec.dtype) for spec in specs)
    return Table(title, (*TENSORS, Column("dtype")), rows, "odd")


def _respecified_table(difference: Difference, names: tuple[str, str]) -> Table:
    columns = (*TENSORS[:2], Column(names[0]), Column(names[1]))
    rows = tuple(_respecified_rows(difference.respecified))
    return Table("another shape or dtype", columns, rows, "odd")


def _respecified_rows(
    pairs: Sequence[tuple[TensorSpec, TensorSpec]],
) -> Iterator[tuple[str, ...]]:
    """A tensor of another shape has its own row; where only dtypes differ, layers are folded."""
    folded: dict[tuple[str, str], list[TensorSpec]] = {}
    for one, other in pairs:
        if one.shape == other.shape:
            folded.setdefault((one.dtype, other.dtype), []).append(one)
        else:
            yield one.name, "1", _spec_text([one], one.dtype), _spec_text([other], other.dtype)
    for dtypes, specs in folded.items():
        by_name = {spec.name: spec for spec in specs}
        for layers in collapse(by_name):
            alike = [by_name[name] for name in layers.names]
            yield (
                layers.pattern,
                f"{len(alike):,}",
                *(_spec_text(alike, dtype) for dtype in dtypes),
            )


def _spec_text(specs: Sequence[TensorSpec], dtype: str) -> str:
    return f"{shapes_text(specs)} {dtype}"


def _values_table(difference: Difference) -> Table:
    """One row for each kind of tensor of repeated layers, told by the worst of them."""
    columns = (
        *TENSORS[:2],
        Column("differ", number=True),
        Column("of", number=True, spare=True),
        Column("largest", number=True),
        Column("relative", number=True),
        Column("most in"),
    )
    return Table("other values", columns, tuple(_value_rows(difference.values)), "odd")


def _value_rows(values: Sequence[ValueDifference]) -> Iterator[tuple[str, ...]]:
    by_name = {value.name: value for value in values}
    for folded in _layers(by_name):
        group = [by_name[name] for name in folded.names]
        worst = max(group, key=lambda value: (value.relative, value.largest))
        yield (
            folded.pattern,
            f"{len(group):,}",
            f"{sum(value.elements for value in group):,}",
            f"{sum(value.total for value in group):,}",
            f"{max(value.largest for value in group):.3g}",
            f"{worst.relative:.3g}",
            _without_shared_end(worst.name, folded.names) if len(group) > 1 else "",
        )


def _without_shared_end(name: str, names: Sequence[str]) -> str:
    """The name without the last segments that all have: ``blocks.2`` of the pattern
    ``blocks.{0..11}.attn.qkv.weight``.
    """
    segments = name.split(".")
    others = [other.split(".") for other in names]
    while len({parts.pop() for parts in others}) == 1 and all(others):
        segments.pop()
    return ".".join(segments)


def _layers(names: Iterable[str]) -> list[Collapsed]:
    """Patterns of repeated layers in the order of the names, weights and biases apart: they
    differ by other amounts, and a count of batches by thousands.
    """
    order = {name: at for at, name in enumerate(names)}
    leaves: dict[str, list[str]] = {}
    for name in order:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    folded = [pattern for found in leaves.values() for pattern in collapse(found)]
    return sorted(folded, key=lambda pattern: order[pattern.names[0]])
