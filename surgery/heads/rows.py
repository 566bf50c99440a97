"""Which class rows are carried over, as (new index, old index) pairs, checked in advance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral

from surgery.errors import HeadError

Pairs = tuple[tuple[int, int], ...]


def kept_rows(
    old_classes: int,
    new_classes: int,
    keep: Mapping[int, int] | None,
    old_labels: Sequence[str] | None,
    new_labels: Sequence[str] | None,
) -> Pairs:
    """Pairs in the order of the new classes; none unless asked, whatever the counts.

    Raises HeadError that names every index out of range, every label that is there twice, and
    a list whose length is not the number of classes.
    """
    if keep is not None and (old_labels is not None or new_labels is not None):
        raise HeadError("keep and label lists both say which rows to keep: pass one of them")
    if keep is not None:
        return _checked(keep, old_classes, new_classes)
    if old_labels is None and new_labels is None:
        return ()
    if old_labels is None or new_labels is None:
        missing = "old_labels" if old_labels is None else "new_labels"
        raise HeadError(f"{missing} is missing: shared labels are told from both lists")
    return _shared(list(old_labels), list(new_labels), old_classes, new_classes)


def _checked(keep: Mapping[int, int], old_classes: int, new_classes: int) -> Pairs:
    problems = [
        f"keep[{new!r}] = {old!r}: there is no {side} class {index!r}"
        for new, old in keep.items()
        for side, index, count in (("new", new, new_classes), ("old", old, old_classes))
        if not _is_index(index, count)
    ]
    if problems:
        raise HeadError(
            f"keep does not fit {old_classes} old and {new_classes} new classes", problems
        )
    return tuple(sorted((int(new), int(old)) for new, old in keep.items()))


def _is_index(value: object, count: int) -> bool:
    """Indices often come out of numpy, whose integers are no ``int``."""
    return isinstance(value, Integral) and 0 <= int(value) < count


def _shared(old: list[str], new: list[str], old_classes: int, new_classes: int) -> Pairs:
    problems = [
        *_label_problems("old_labels", old, old_classes),
        *_label_problems("new_labels", new, new_classes),
    ]
    if problems:
        raise HeadError("the label lists do not fit the classes", problems)
    index = {label: position for position, label in enumerate(old)}
    return tuple((position, index[label]) for position, label in enumerate(new) if label in index)


def _label_problems(name: str, labels: list[str], classes: int) -> list[str]:
    problems = [
        f"{name} holds {label!r} {count} times"
        for label, count in Counter(labels).items()
        if count > 1
    ]
    if len(labels) != classes:
        problems.append(f"{name} has {len(labels)} labels for {classes} classes")
    return problems
