"""The order that names speak of: ``layer1`` before ``layer2``, whatever order the file has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from surgery.matching.structure.layers import Path
from surgery.matching.structure.words import compare, natural_key


def natural(path: Path) -> tuple[object, ...]:
    """A sorting key that reads numbers as numbers, segment by segment."""
    return tuple(natural_key(segment) for segment in path)


def before(one: Path, other: Path) -> int | None:
    """-1 or 1 by the first segment in which two paths differ; None where it says nothing."""
    for segment, other_segment in zip(one, other, strict=False):
        if segment != other_segment:
            return compare(segment, other_segment)
    return None


def chain(paths: Iterable[Path]) -> list[Path] | None:
    """The paths in the one order that their names give them; None where any two have none."""
    ordered = _sorted(list(paths))
    for at, path in enumerate(ordered[1:], start=1):
        if before(ordered[at - 1], path) != -1:
            return None
    return ordered if len(ordered) < 3 or _total(ordered) else None


def _sorted(paths: list[Path]) -> list[Path]:
    ordered = sorted(paths, key=natural)
    if len(ordered) == 2 and before(*ordered) == 1:
        ordered.reverse()  # words of order do not sort by letters
    return ordered


def _total(ordered: Sequence[Path]) -> bool:
    """Numbers are transitive along a sorted list, words of order need not be: each of three
    neighbours is compared.
    """
    return all(before(one, two) == -1 for one, two in zip(ordered, ordered[2:], strict=False))
