"""Which class rows are carried over, as (new index, old index) pairs, checked in advance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from surgery.errors import HeadError

Pairs = tuple[tuple[int, int], ...]

#: Labels in the order of their classes, or by class index as in transformers' ``id2label``.
Labels = Sequence[str] | Mapping[int, str]


def kept_rows(
    old_classes: int,
    new_classes: int,
    keep: Mapping[int, int] | None,
    old_labels: Sequence[str] | None,
    new_labels: Sequence[str] | None,
) -> Pairs:
    """Pairs in the order of the new classes; none unless one of the three says so, whatever the
    counts.

    Raises HeadError that names every index out of range, every label that is there twice, and
    a list whose length is not the number of classes; and where the lists share no label.
    """
    given = {"old_labels": old_labels, "new_labels": new_labels}
    both = {name: labels for name, labels in given.items() if labels is not None}
    if keep is not None and both:
        raise HeadError("keep and label lists both say which rows to keep: pass one of them")
    if keep is not None:
        return _checked(keep, old_classes, new_classes)
    if not both:
        return ()
    if len(both) == 1:
        (missing,) = given.keys() - both.keys()
        raise HeadError(f"{missing} is missing: shared labels are found in both lists")
    problems = [
        f"{name} has {len(labels)} labels for {classes} classes"
        for (name, labels), classes in zip(both.items(), (old_classes, new_classes), strict=True)
        if len(labels) != classes
    ]
    return rows_by_labels(both, problems)


def rows_by_labels(both: Mapping[str, Sequence[str]], problems: Iterable[str] = ()) -> Pairs:
    """The pairs of equal labels. ``both`` holds the old and the new ones, in the order of their
    classes, under what the user calls them; ``problems`` are what else is wrong with them.
    """
    (_, old), (_, new) = both.items()
    twice = [
        f"{name} holds {label!r} {count} times"
        for name, labels in both.items()
        for label, count in Counter(labels).items()
        if count > 1
    ]
    if problems := [*twice, *problems]:
        raise HeadError("the label lists do not fit the classes", problems)
    index = {label: at for at, label in enumerate(old)}
    kept = tuple((at, index[label]) for at, label in enumerate(new) if label in index)
    if new and not kept:
        first = f"{old[0]!r} / {new[0]!r}" if old else "the old one is empty"
        raise HeadError(f"{' and '.join(both)} share no label (first: {first})")
    return kept


def ordered_labels(name: str, labels: Labels | None) -> tuple[str, ...] | None:
    """The labels in the order of their classes; None where none were given.

    ``name`` is what the caller calls them. Raises HeadError for what has no order (a set), is
    one text, or holds something that is no text.
    """
    if labels is None:
        return None
    if isinstance(labels, str | set | frozenset) or not isinstance(labels, Iterable):
        raise HeadError(f"{name} is a list of labels or {{index: label}}, not {labels!r}")
    if isinstance(labels, Mapping):
        if odd := [index for index in labels if not _is_index(index, len(labels))]:
            problems = [f"{index!r} is none of 0 to {len(labels) - 1}" for index in odd]
            raise HeadError(f"{name} does not number its {len(labels)} labels from 0", problems)
        labels = [labels[index] for index in range(len(labels))]
    values = tuple(labels)
    problems = [f"{value!r} is no text" for value in values if not isinstance(value, str)]
    if problems:
        raise HeadError(f"{name} holds something else than labels", problems)
    return tuple(map(str, values))


def _checked(keep: Mapping[int, int], old_classes: int, new_classes: int) -> Pairs:
    if not isinstance(keep, Mapping):
        raise HeadError(f"keep is {{new_index: old_index}}, not {keep!r}")
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
