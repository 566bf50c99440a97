"""Many names of repeated layers -> a few patterns that stand for exactly those names.

``layer1.0.conv1.weight``, ``layer1.1.conv1.weight``, ... become
``layer{1..4}.{0,1}.conv1.weight``. A pattern is exact: expanding every brace gives back the
names it stands for, no more and no fewer.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from surgery.wording import listed

Kind = TypeVar("Kind", bound=Hashable)

_DIGITS = re.compile(r"(\d+)")
_LONGEST_NUMBER = 18
# No network nests so deep; a stranger's name may hold thousands of numbers.
_MOST_NUMBERS = 32

Slots = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Collapsed:
    """A pattern and the names that it stands for, in their given order."""

    pattern: str
    names: tuple[str, ...]


def collapse(names: Iterable[str]) -> tuple[Collapsed, ...]:
    """Fold names that differ in numbers, or in their last segment, into exact patterns.

    Patterns come in the order in which their first names were given.

    >>> [c.pattern for c in collapse(["a.0.weight", "a.0.bias", "a.1.weight", "a.1.bias"])]
    ['a.{0,1}.{weight,bias}']
    """
    order = {name: at for at, name in enumerate(names)}
    families: dict[Slots, dict[Slots, str]] = {}
    for name in order:
        template, slots = _take_apart(name)
        families.setdefault(template, {})[slots] = name
    folded = [
        Collapsed(_put_together(template, block), tuple(sorted(found, key=order.__getitem__)))
        for template, family in families.items()
        for block in _blocks(list(family))
        for found in [[family[slots] for slots in product(*block)]]
    ]
    return tuple(sorted(folded, key=lambda collapsed: order[collapsed.names[0]]))


def collapse_kinds(kinds: Mapping[str, Kind]) -> list[tuple[Collapsed, Kind]]:
    """The same for names of several kinds: no pattern stands for names of two, and those of one
    kind follow each other.
    """
    names: dict[Kind, list[str]] = {}
    for name, kind in kinds.items():
        names.setdefault(kind, []).append(name)
    return [(folded, kind) for kind, found in names.items() for folded in collapse(found)]


def patterns(names: Iterable[str], most: int = 6) -> str:
    """Names in a sentence: ``layer{1..4}.bn, fc and 3 more``."""
    return listed([folded.pattern for folded in collapse(dict.fromkeys(names))], most)


def template(name: str) -> Slots:
    """What names of repeated layers have in common: the texts around the numbers of the path."""
    return _take_apart(name)[0]


def counterpart(name: str, other: str) -> Hashable:
    """How ``other`` follows from ``name``: its template, and how its numbers differ.

    Where pairs of one kind are folded no row hides what goes where: ``fc1`` to ``fc2`` and ``fc2``
    to ``fc1`` are of two kinds.
    """
    if name == other:
        return ()
    ours, theirs = _numbers(name), _numbers(other)
    differences = [old - new for old, new in zip(theirs, ours, strict=False)]
    return (template(other), *differences, *theirs[len(ours) :])


def _numbers(name: str) -> list[int]:
    return [int(text) for text in split_numbers(name)[1] if len(text) <= _LONGEST_NUMBER]


def split_numbers(text: str) -> tuple[Slots, Slots]:
    """The fixed texts around the numbers, one more than these, and the numbers.

    >>> split_numbers("layer1.0.conv")
    (('layer', '.', '.conv'), ('1', '0'))
    """
    parts = _DIGITS.split(text, _MOST_NUMBERS)
    return tuple(parts[0::2]), tuple(parts[1::2])


def _take_apart(name: str) -> tuple[Slots, Slots]:
    """The fixed texts around the slots, and what fills them: numbers, and the last segment."""
    path, dot, leaf = name.rpartition(".")
    fixed, numbers = split_numbers(path)
    return (*fixed, dot), (*numbers, leaf)


#: For each slot the values it takes; the block is their product.
Block = tuple[Slots, ...]


def _blocks(tuples: Sequence[Slots]) -> list[Block]:
    """Cut a set of tuples into products: equal remainders of a first value are one block."""
    if len(tuples[0]) == 1:
        return [(tuple(slot for (slot,) in tuples),)]
    remainders: dict[str, list[Slots]] = {}
    for first, *rest in tuples:
        remainders.setdefault(first, []).append(tuple(rest))
    firsts_of: dict[tuple[Block, ...], list[str]] = {}
    for first, rests in remainders.items():
        firsts_of.setdefault(tuple(_blocks(rests)), []).append(first)
    return [(tuple(firsts), *block) for blocks, firsts in firsts_of.items() for block in blocks]


def _put_together(template: Slots, block: Block) -> str:
    *fixed, dot = template
    *numbers, leaves = block
    path = fixed[0]
    for values, text in zip(numbers, fixed[1:], strict=True):
        path += _braces(_ranges(values)) + text
    return path + dot + _braces(leaves)


def _ranges(values: Slots) -> Slots:
    """``0 1 2 4`` -> ``0..2 4``; two neighbours stay apart, and so does ``007``."""
    plain = sorted(int(value) for value in values if _is_plain(value))
    runs: list[list[int]] = []
    for number in plain:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [
        text
        for run in runs
        for text in ([f"{run[0]}..{run[-1]}"] if len(run) > 2 else map(str, run))
    ]
    return (*texts, *(value for value in values if not _is_plain(value)))


def _is_plain(value: str) -> bool:
    """A number as a layer has one: Python itself refuses to read one of thousands of digits."""
    return len(value) <= _LONGEST_NUMBER and str(int(value)) == value


def _braces(values: Slots) -> str:
    if len(values) == 1 and ".." not in values[0]:
        return values[0]
    return "{" + ",".join(values) + "}"
