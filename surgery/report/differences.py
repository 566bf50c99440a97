"""What two checkpoints do not share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from surgery.checkpoint.difference import Difference, ValueDifference
from surgery.collapse import Collapsed, collapse, collapse_kinds
from surgery.report.folding import TENSORS, Row, named, shapes_text, tensor_rows
from surgery.report.tables import Report, Table, number
from surgery.specs import TensorSpec, is_floating
from surgery.wording import counted


def difference_report(
    difference: Difference, *, names: tuple[str, str] = ("the first", "the second")
) -> Report:
    """What differs, kind by kind; first lines that say whether anything does, and where most."""
    equal = [*map(named, collapse(difference.equal))] if difference.values else []
    notes = [f"{name} is no tensor and was not compared" for name in difference.others]
    if difference.wrapped:
        one, other = difference.wrapped[0]
        count = counted(len(difference.wrapped), "name")
        where = f"{one} in {names[0]} is {other} in {names[1]}"
        notes.insert(0, f"{count} in other wrappers: {where}")
    return Report(
        headline=(_counts_text(difference, names), *_largest_text(difference.values)),
        tables=(
            _specs_table(f"only in {names[0]}", difference.only_first),
            _specs_table(f"only in {names[1]}", difference.only_second),
            _respecified_table(difference, names),
            _values_table(difference.values),
            Table("equal", TENSORS[:2], equal, "good"),
            Table("cannot be compared", ("name", "why"), difference.incomparable),
        ),
        notes=notes,
    )


def _counts_text(difference: Difference, names: tuple[str, str]) -> str:
    equal, values = len(difference.equal), len(difference.values)
    respecified = len(difference.respecified)
    both = counted(equal + values + respecified, "tensor")
    shared = [f"{equal:,} equal", f"{values:,} with other values"]
    shared += [f"{respecified:,} of another shape or dtype"] if respecified else []
    others = {
        f"only in {names[0]}": len(difference.only_first),
        f"only in {names[1]}": len(difference.only_second),
        "cannot be compared": len(difference.incomparable),
    }
    rest = [f"{count:,} {what}" for what, count in others.items() if count]
    return "; ".join([f"{names[0]} and {names[1]}: {both} in both, {', '.join(shared)}", *rest])


def _largest_text(values: Sequence[ValueDifference]) -> Iterator[str]:
    """The largest differences of all, which no folding may hide; a count of batches matters only
    where no weights differ.
    """
    floating = [value for value in values if is_floating(value.dtype)]
    if compared := floating or values:
        most = max(compared, key=lambda value: value.largest)
        relative = max(compared, key=lambda value: value.relative)
        numbers = " of floating numbers" if len(compared) < len(values) else ""
        yield (
            f"the largest difference{numbers} is {most.largest:.3g} in {most.name}; "
            f"relative to its tensor {relative.relative:.3g} in {relative.name}"
        )


def _specs_table(title: str, specs: Sequence[TensorSpec]) -> Table:
    rows = tensor_rows((spec, spec.dtype) for spec in specs)
    return Table(title, (*TENSORS, "dtype"), rows, "odd")


def _respecified_table(difference: Difference, names: tuple[str, str]) -> Table:
    """A tensor of another shape has its own row; where only dtypes differ, layers are folded."""
    shapes_first = sorted(difference.respecified, key=lambda pair: pair[0].shape == pair[1].shape)
    pairs = {one.name: (one, other) for one, other in shapes_first}
    kinds = {
        name: (one.dtype, other.dtype) if one.shape == other.shape else name
        for name, (one, other) in pairs.items()
    }
    rows: list[Row] = []
    for folded, _ in collapse_kinds(kinds):
        sides = zip(*(pairs[name] for name in folded.names), strict=True)
        texts = (f"{shapes_text(specs)} {specs[0].dtype}" for specs in sides)
        rows.append((*named(folded), *texts))
    return Table("another shape or dtype", (*TENSORS[:2], *names), rows, "odd")


def _values_table(values: Sequence[ValueDifference]) -> Table:
    """One row for each kind of tensor of repeated layers, with the worst of them."""
    numbers = (number("differ"), number("of", spare=True), number("largest"), number("relative"))
    by_name = {value.name: value for value in values}
    rows: list[Row] = []
    for folded in _layers(by_name):
        group = [by_name[name] for name in folded.names]
        worst = max(group, key=lambda value: (value.relative, value.largest))
        rows.append(
            (
                *named(folded),
                sum(value.elements for value in group),
                sum(value.total for value in group),
                f"{max(value.largest for value in group):.3g}",
                f"{worst.relative:.3g}",
                _without_shared_end(worst.name, folded.names) if len(group) > 1 else "",
            )
        )
    return Table("other values", (*TENSORS[:2], *numbers, "most in"), rows, "odd")


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
    """Patterns of repeated layers in the order of the names, weights and biases in rows of their
    own: they differ by other amounts, and a count of batches by thousands.
    """
    order = {name: at for at, name in enumerate(names)}
    folded = collapse_kinds({name: name.rpartition(".")[2] for name in order})
    return sorted((each for each, _ in folded), key=lambda each: order[each.names[0]])
