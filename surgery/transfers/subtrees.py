"""Many names -> the few patterns that select them, for an option that a person pastes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from surgery.patterns import is_plain, names_meant, read_pattern
from surgery.wrappers import paths_of

#: Patterns in one option; where exact ones are more, whole subtrees stand for them.
_MOST = 6


def covering(names: Sequence[str], others: Iterable[str]) -> tuple[str, ...]:
    """Patterns that select all of ``names`` and, where few can say it, none of ``others``.

    >>> covering(["neck.a.weight", "neck.b.weight", "l.6.w", "l.7.w"], ["l.5.w"])
    ('neck', 'l.[67]')
    """
    others = list(others)
    exact = tuple(_folded(whole_subtrees(names, others), others))
    if len(exact) <= _MOST:
        return exact
    tops = dict.fromkeys(".".join(path.split(".")[:1]) for path in whole_subtrees(names, others))
    return tuple(map(_quoted, tops)) if len(tops) <= _MOST else ("**",)


def whole_subtrees(names: Sequence[str], others: Iterable[str]) -> list[str]:
    """The highest paths below which there is nothing but ``names``."""
    taken = {path for name in others for path in paths_of(name)}
    return list(
        dict.fromkeys(
            next(path for path in paths_of(name) if path not in taken or path == name)
            for name in names
        )
    )


def _folded(paths: Sequence[str], others: Sequence[str]) -> Iterator[str]:
    """Paths that differ in numbers as one glob, where it selects no other name."""
    families: dict[str, list[str]] = {}
    for path in paths:
        families.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", path), []).append(path)
    for glob, family in families.items():
        if len(family) == 1 or not is_plain(family[0]):
            yield from map(_quoted, family)
        elif not names_meant(read_pattern(glob), others):
            yield glob
        else:
            yield from _numbered(family)


def _numbered(family: Sequence[str]) -> Iterator[str]:
    """Paths that differ in their last number alone, by sets of digits; others one by one."""
    stems: dict[tuple[str, str], list[int]] = {}
    for path in family:
        *_, last = re.finditer(r"(?<![^.])\d+(?![^.])", path)
        stems.setdefault((path[: last.start()], path[last.end() :]), []).append(int(last[0]))
    for (before, after), numbers in stems.items():
        yield from (f"{before}{digits}{after}" for digits in number_globs(numbers))


def number_globs(numbers: Iterable[int]) -> list[str]:
    """Globs that stand for these numbers, by the digit they end in.

    >>> number_globs(range(6, 23))
    ['[6-9]', '1[0-9]', '2[0-2]']
    """
    ends: dict[str, list[int]] = {}
    for number in sorted(set(numbers)):
        ends.setdefault(str(number)[:-1], []).append(number % 10)
    return [f"{tens}{_digits(units)}" for tens, units in ends.items()]


def _digits(units: Sequence[int]) -> str:
    if len(units) == 1:
        return str(units[0])
    run = list(range(units[0], units[-1] + 1)) == list(units)
    inside = f"{units[0]}-{units[-1]}" if run and len(units) > 2 else "".join(map(str, units))
    return f"[{inside}]"


def _quoted(path: str) -> str:
    """The path as a pattern; one with characters that a pattern gives a meaning, as a regex."""
    if is_plain(path):
        return path
    escaped = re.escape(path).replace("/", r"\/")
    return rf"/^{escaped}(\.|$)/"
