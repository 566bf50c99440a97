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

from surgery.errors import SurgeryError
from surgery.matching.lines.folding import Fold, factor, fold_numbers, fold_pairs
from surgery.matching.lines.renames import UNUSED, Rename, Renames
from surgery.wrappers import unwrap_name, unwrap_names

_PLAIN = re.compile(r"[\w\-]+(\.[\w\-]+)*\Z")


@dataclass(frozen=True, slots=True)
class Line:
    """A plain line. ``anchored`` holds it to the beginning of a name, ``whole`` to its end too."""

    fold: Fold
    anchored: bool = False
    whole: bool = False

    @property
    def sides(self) -> tuple[str, str]:
        """What stands left and right of the arrow."""
        left, right = ".".join(self.fold.source), ".".join(self.fold.target)
        if not (self.anchored or self.whole):
            return left, right
        end = "$" if self.whole else ""
        return f"^{_escaped(left, glob=not self.whole)}{end}", _template(right, glob=not self.whole)

    def __str__(self) -> str:
        left, right = self.sides
        return f"{left} -> {right}"

    def begins(self, name: str) -> bool:
        """Whether a name has the left side at its beginning."""
        glob = r"[^.]+".join(map(re.escape, ".".join(self.fold.source).split("*")))
        return re.match(rf"{glob}(?:\.|$)", name) is not None


def _escaped(text: str, *, glob: bool) -> str:
    """A regular expression for the text, without any space and without what begins a comment."""
    parts = text.split("*") if glob else [text]
    return "([^.]+)".join("".join(map(_escaped_character, part)) for part in parts)


def _escaped_character(character: str) -> str:
    if re.match(r"[\w\-]", character):
        return character
    return rf"\{character}" if character in ".*+?()[]{}|^$\\" else rf"\U{ord(character):08x}"


def _template(text: str, *, glob: bool) -> str:
    if text == UNUSED:
        return text
    first, *parts = text.replace("\\", r"\\").split("*") if glob else [text.replace("\\", r"\\")]
    for number, part in enumerate(parts, start=1):
        first += (rf"\g<{number}>" if part[:1].isdigit() else rf"\{number}") + part
    return first


@dataclass(frozen=True)
class Wanted:
    """What plain lines must bring about.

    ``names`` are all source names, ``new`` the target name of those that have one (and of no
    other), ``taken`` the target's names, which nothing else may be given. ``rows`` are names that
    recipes use, and the targets made of them: these they may be given, and without a line they
    are not looked at.
    """

    names: tuple[str, ...]
    new: Mapping[str, str]
    taken: frozenset[str]
    rows: Mapping[str, frozenset[str]] = field(default_factory=dict)

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

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Names below wrappers, where patterns can have them."""
        for name, new in self.clean_new.items():
            if not is_odd(self.clean[name]) and not is_odd(new):
                yield self.clean[name], new


def is_odd(name: str) -> bool:
    """Whether only a regular expression can have the name, or none."""
    return not _PLAIN.match(name)


def draft(wanted: Wanted, unused: Iterable[str] = ()) -> list[Line]:
    """The lines, in order; ``unused`` are names that must be left out by a line.

    Raises :class:`~surgery.errors.SurgeryError` where no lines bring it about.
    """
    best: list[Line] | None = None
    for folds in _readings(list(wanted.pairs())):
        if best is None or len(folds) < len(best):
            found = _repaired(wanted, folds, unused)
            best = found if best is None or len(found) < len(best) else best
            if len(found) <= len(folds):  # nothing had to be repaired
                break
    return best or []


def _readings(pairs: Sequence[tuple[str, str]]) -> Iterator[list[Fold]]:
    """Several ways to say the same, those that tend to be shorter first."""
    folds = [fold for fold in fold_pairs(pairs) if fold.source != fold.target]
    fewer = factor(folds)
    yield fewer
    yield factor([fold for fold in fold_pairs(pairs, apart=True) if fold.source != fold.target])
    yield folds


def _repaired(wanted: Wanted, folds: Sequence[Fold], unused: Iterable[str]) -> list[Line]:
    repairs = _Repairs(wanted, folds)
    repairs.leave_out(unused)
    for _ in range(12):
        if not repairs.improved():
            return repairs.lines
    raise SurgeryError(
        "no rename file says what this plan says; transfer by it (--match structure) instead",
        repairs.wrong[:10],
    )


def _longer_first(folds: Sequence[Fold]) -> list[Fold]:
    """In the order given, but what another holds within comes after it."""
    known = {fold.source: fold for fold in reversed(folds)}
    longer: dict[Fold, list[Fold]] = {}
    for fold in folds:
        for start in range(len(fold.source)):
            for stop in range(start + 1, len(fold.source) + 1):
                part = known.get(fold.source[start:stop])
                if part and part.source != fold.source:
                    longer.setdefault(part, []).append(fold)
    ordered: dict[Fold, None] = {}
    for fold in folds:
        for one in (*sorted(longer.get(fold, ()), key=lambda f: -len(f.source)), fold):
            ordered.setdefault(one)
    return list(ordered)


class _Repairs:
    """Lines that are made right. Those that are added go before the others, and have their text."""

    def __init__(self, wanted: Wanted, folds: Sequence[Fold]) -> None:
        self._wanted = wanted
        inner = {fold.source for fold in folds if fold.inner}
        self.lines = [
            Line(fold, anchored=not fold.inner and fold.source in inner)
            for fold in _longer_first(folds)
        ]
        self._tried: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._needed = {path for name in wanted.new for path in _paths(wanted.clean[name])}
        odd = []
        for name, new in wanted.clean_new.items():
            old = wanted.clean[name]
            if old != new and (is_odd(old) or is_odd(new)):
                odd.append(self._explicit(name))
        self._put_first(odd)

    def improved(self) -> bool:
        """Try the lines on all names and change what must be; False where nothing must."""
        renames = tuple(Rename(at, *line.sides) for at, line in enumerate(self.lines))
        applied, _ = Renames("", renames).applied(self._wanted.names)
        self.wrong = list(_wrong(self._wanted, applied))
        if not self.wrong:
            used = {at for _, each in applied.values() for at in each}
            idle = len(used) < len(self.lines)
            self.lines = [line for at, line in enumerate(self.lines) if at in used]
            return idle
        astray = {at for name in self.wrong for at in applied[name][1] if self._strays(at, name)}
        if astray:
            self.lines = [
                replace(line, anchored=True) if at in astray else line
                for at, line in enumerate(self.lines)
            ]
        else:
            self._repair()
        return True

    def _strays(self, at: int, name: str) -> bool:
        """Whether a line that is meant for the beginning of names met this one elsewhere."""
        line = self.lines[at]
        free = not (line.fold.inner or line.anchored or line.whole)
        return free and not line.begins(self._wanted.clean[name])

    def _repair(self) -> None:
        """Lines of their own for names that are wrong; where that has been tried, whole ones."""
        clean, new = self._wanted.clean, self._wanted.clean_new
        self.leave_out([name for name in self.wrong if name not in new])
        again = [name for name in self.wrong if name in new and name not in self._tried]
        whole = [name for name in self.wrong if name in new and name in self._tried]
        self._put_first([self._explicit(name) for name in whole])
        self._tried.update(again)  # once more each
        folds = fold_pairs((clean[name], new[name]) for name in again)
        self._put_first([Line(fold) for fold in _longer_first(folds)])

    def leave_out(self, names: Iterable[str]) -> None:
        """Put lines first that leave them out, with all that is beside them and not needed."""
        paths, whole = [], []
        for name in names:
            clean = self._wanted.clean[name]
            if name in self._tried or is_odd(clean):
                whole.append(self._whole(name, UNUSED))
            else:
                self._tried[name] += 1
                above = (path for path in _paths(clean) if path not in self._needed)
                paths.append(next(above, clean))
        folded = fold_numbers([(path, path) for path in dict.fromkeys(paths)])
        self._put_first([Line(Fold(_split(each.texts[0]), (UNUSED,))) for each in folded])
        self._put_first(whole)

    def _explicit(self, name: str) -> Line:
        new = self._wanted.new[name] if self._tried[name] > 1 else self._wanted.clean_new[name]
        if new != new.strip() or re.search(r"\s#|[\x00-\x1f\x7f-\x9f\u2028\u2029]", new):
            raise SurgeryError(f"no line of a rename file can have the target name {new!r}")
        return self._whole(name, new)

    def _whole(self, name: str, new: str) -> Line:
        """A line for the whole name: below wrappers, and where that has been tried, with them."""
        old = name if self._tried[name] > 1 else self._wanted.clean[name]
        self._tried[name] += 1
        return Line(Fold((old,), (new,)), anchored=True, whole=True)

    def _put_first(self, lines: Iterable[Line]) -> None:
        self.lines = list(dict.fromkeys([*lines, *self.lines]))


def _split(path: str) -> tuple[str, ...]:
    return tuple(path.split(".")) if path else ()


def _paths(name: str) -> Iterator[str]:
    """Every path above the name, the shortest first."""
    for match in re.finditer(r"\.", name):
        yield name[: match.start()]


def _wrong(wanted: Wanted, applied: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[str]:
    """Names that do not come out as they should, or where they should not."""
    seen: dict[str, str] = {}
    for name in wanted.names:
        new, lines = applied[name]
        clean = unwrap_name(new)
        if name in wanted.new:
            right = clean == wanted.clean_new[name] or new == wanted.new[name]
        elif not new or (name in wanted.rows and not lines):
            right = True
        elif new in wanted.rows.get(name, ()):
            right = seen.setdefault(new, name) == name
        else:
            taken = clean in wanted.clean_taken or new in wanted.taken
            right = not taken and seen.setdefault(new, name) == name
        if not right:
            yield name
