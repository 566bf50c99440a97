"""Lines that give every source tensor its new name, and nothing else a name that is taken.

Folded lines are short and may touch what they should not. They are tried on all names, and where
one does not come out as it should, lines are held to the beginning of a name, or more explicit
ones put before them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

from surgery.errors import SurgeryError
from surgery.matching.lines.folding import Line, factored, fold_numbers, fold_pairs
from surgery.matching.lines.renames import UNUSED, applied, read_rename
from surgery.patterns import is_plain
from surgery.wrappers import paths_of, unwrap_name, unwrap_names

#: Times that lines are tried and mended.
_MOST_TRIES = 12
NO_MAPPING = "no mapping says what this plan says; transfer by it (--match structure) instead"


@dataclass(frozen=True)
class Wanted:
    """What plain lines must bring about.

    ``names`` are all source names, ``new`` the target name of those that have one (and of no
    other), ``taken`` the target's names, which nothing else may be given. ``fed`` are names that
    recipes use, and the targets made of them: these they may be given, and without a line they
    are not looked at. ``out`` are names that must be left out by a line.
    """

    names: tuple[str, ...]
    new: Mapping[str, str]
    taken: frozenset[str]
    fed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    out: frozenset[str] = frozenset()

    @cached_property
    def clean(self) -> Mapping[str, str]:
        """Source names below wrappers."""
        return unwrap_names(self.names)

    @cached_property
    def clean_new(self) -> Mapping[str, str]:
        """As ``new``, the target's names below wrappers."""
        clean = unwrap_names(self.taken)
        return {name: clean[new] for name, new in self.new.items()}

    @cached_property
    def clean_taken(self) -> frozenset[str]:
        return frozenset(unwrap_names(self.taken).values())

    @cached_property
    def needed(self) -> frozenset[str]:
        """Every name that is renamed, and every path above it."""
        return frozenset(path for name in self.new for path in paths_of(self.clean[name]))

    def wrong(self, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[str]:
        """Names that do not come out as they should, or where they should not."""
        seen: dict[str, str] = {}
        for name in self.names:
            new, lines = found[name]
            clean = unwrap_name(new)
            if name in self.new:
                right = clean == self.clean_new[name] or new == self.new[name]
            elif not new or name in self.out:
                right = not new
            elif name in self.fed and not lines:
                right = True
            elif new in self.fed.get(name, ()):
                right = seen.setdefault(new, name) == name
            else:
                taken = clean in self.clean_taken or new in self.taken
                right = not taken and seen.setdefault(new, name) == name
            if not right:
                yield name


def draft(wanted: Wanted) -> list[Line]:
    """The lines, in order.

    Raises :class:`~surgery.errors.SurgeryError` where no lines bring it about.
    """
    names = {name: (wanted.clean[name], new) for name, new in wanted.clean_new.items()}
    plain = {name: pair for name, pair in names.items() if all(map(is_plain, pair))}
    odd = [name for name, pair in names.items() if name not in plain and pair[0] != pair[1]]
    folded = factored(fold_pairs(plain.values()))
    lines = _longer_first(folded)
    tried: set[str] = set()
    out = [name for name in wanted.names if name in wanted.out]
    lines = [*_mended(wanted, odd, tried), *_mended(wanted, out, tried), *lines]
    for _ in range(_MOST_TRIES):
        renames = {at: read_rename(*line.sides) for at, line in enumerate(lines)}
        found, _ = applied(renames, wanted.names)
        wrong = list(wanted.wrong(found))
        used = {at for _, each in found.values() for at in each}
        if not wrong and len(used) == len(lines):
            return lines
        astray = {
            at for name in wrong for at in found[name][1] if lines[at].strays(wanted.clean[name])
        }
        if astray:
            lines = [
                replace(line, held="beginning") if at in astray else line
                for at, line in enumerate(lines)
            ]
        elif wrong:
            lines = list(dict.fromkeys([*_mended(wanted, wrong, tried), *lines]))
        else:
            lines = [line for at, line in enumerate(lines) if at in used]
    raise SurgeryError(NO_MAPPING, wrong)


def _longer_first(lines: Sequence[Line]) -> list[Line]:
    """In the order given, but what others hold within after them, and what layers hold last."""
    parts = Counter(
        line.source[start:stop]
        for line in lines
        for start, stop in combinations(range(len(line.source) + 1), 2)
    )
    return sorted(lines, key=lambda line: (line.held == "inside", parts[line.source]))


def _mended(wanted: Wanted, names: Sequence[str], tried: set[str]) -> list[Line]:
    """Lines to be put first for names that are wrong: short ones, and where these were ``tried``,
    one for the whole of each name.
    """
    lines: list[Line] = []
    again: dict[str, str] = {}
    for name in names:
        old, new = wanted.clean[name], wanted.clean_new.get(name, "")
        if name in tried or not is_plain(old) or not (is_plain(new) or not new):
            lines += _explicit(wanted, name)
        else:
            again[old] = new
    tried.update(names)
    lines += _left_out((old for old, new in again.items() if not new), wanted)
    return [*lines, *_longer_first(fold_pairs((o, n) for o, n in again.items() if n))]


def _left_out(names: Iterable[str], wanted: Wanted) -> Iterator[Line]:
    """Lines that leave names out, with all that is beside them and not needed."""
    paths = []
    for name in names:
        above = (path for path in paths_of(name) if path not in wanted.needed)
        paths.append(next(above, name))
    for each in fold_numbers([(path, path) for path in dict.fromkeys(paths)]):
        yield Line(tuple(each.texts[0].split(".")), (UNUSED,))


def _explicit(wanted: Wanted, name: str) -> Iterator[Line]:
    """Lines for the whole name, with its wrappers and below them."""
    sides = (
        (name, wanted.new.get(name, UNUSED)),
        (wanted.clean[name], wanted.clean_new.get(name, UNUSED)),
    )
    for old, new in dict.fromkeys(sides):
        if new != new.strip() or re.search(r"\s#|[\x00-\x1f\x7f-\x9f\u2028\u2029]", new):
            raise SurgeryError(f"no line of a mapping can have the target name {new!r}")
        yield Line((old,), (new,), "whole")
