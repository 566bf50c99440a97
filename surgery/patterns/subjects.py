"""What selectors are held against, and which of it they mean."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from surgery.errors import did_you_mean
from surgery.patterns.globs import candidates, has_wildcards
from surgery.patterns.pattern import Pattern, names_meant
from surgery.patterns.selectors import Selector
from surgery.wording import shortened
from surgery.wrappers import paths_of

#: Of longer names the paths above them are not looked at for a nearest one.
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Subject:
    """What a selector is held against: a parameter under all its names, or a module.

    ``names`` are unwrapped. ``words`` are those ``:words`` that hold, and what a transfer did to
    it.
    """

    names: tuple[str, ...]
    types: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a selector means: indices of subjects.

    ``unmet`` are its names, globs, expressions and types that no subject has, those behind a
    ``!`` too, as ``!fcc`` would mean everything. The ``:words`` may hold for nothing.
    """

    indices: frozenset[int]
    unmet: tuple[Pattern, ...]


class Subjects:
    """Subjects in their order, prepared for any number of selectors.

    A regular expression has one budget of time for all of them, see
    :class:`~surgery.patterns.regexes.BoundedRegex`.
    """

    def __init__(self, subjects: Iterable[Subject]) -> None:
        self._subjects = tuple(subjects)
        self._all = frozenset(range(len(self._subjects)))
        named = [(name, at) for at, each in enumerate(self._subjects) for name in each.names]
        named.sort()
        self._names = [name for name, _ in named]
        self._owners = [at for _, at in named]

    def meant_by(self, selector: Selector) -> Meaning:
        """Raises SelectorError where a regular expression takes too long."""
        found = {atom: self._of(atom) for atom in dict.fromkeys(selector.atoms)}
        meant: set[int] = set()
        for conjunction in selector.union:
            these = set(self._all)
            for atom in conjunction:
                these = these - found[atom] if atom.negated else these & found[atom]
            meant |= these
        named = (atom for atom in found if atom.kind not in ("state", "class"))
        return Meaning(frozenset(meant), tuple(atom for atom in named if not found[atom]))

    def _of(self, atom: Pattern) -> set[int]:
        match atom.kind:
            case "regex":
                return self._named(atom)
            case "type":
                types = names_meant(atom, self._types, end=r"\Z")
                return {at for at, each in enumerate(self._subjects) if types & {*each.types}}
            case "state" | "class":
                return {at for at, each in enumerate(self._subjects) if atom.body in each.words}
            case _:
                return self._of_glob(atom.body)

    def _of_glob(self, glob: str) -> set[int]:
        if has_wildcards(glob):
            return self._named(Pattern(glob, "glob", glob), candidates(glob, self._names))
        # A name and all that begin with it and a dot lie together but for what sorts before a dot.
        exact = slice(bisect_left(self._names, glob), bisect_left(self._names, f"{glob}\0"))
        below = slice(bisect_left(self._names, f"{glob}."), bisect_left(self._names, f"{glob}/"))
        return {*self._owners[exact], *self._owners[below]}

    def _named(self, pattern: Pattern, where: slice = slice(None)) -> set[int]:
        names, owners = self._names[where], self._owners[where]
        meant = names_meant(pattern, dict.fromkeys(names)) if names else ()
        return {at for name, at in zip(names, owners, strict=True) if name in meant}

    def why_unmet(self, atom: Pattern, *, near: bool = True) -> str:
        """One line for an atom that nothing meets, with the nearest name, which takes its time."""
        return f"{shortened(atom.text)!r} matches nothing{self._nearest(atom) if near else ''}"

    def _nearest(self, atom: Pattern) -> str:
        if atom.kind == "glob":
            return self._nearest_glob(atom.text.replace("/", "."))
        return did_you_mean(atom.body, self._types, count=2) if atom.kind == "type" else ""

    def _nearest_glob(self, text: str) -> str:
        if text.lstrip("*.") == "bias" and any("bias" in each.words for each in self._subjects):
            return "; did you mean :bias or **.bias?"
        if text == "default":
            return "; `:all` means every parameter"
        same = [path for path in self._paths if path.casefold() == text.casefold()]
        if same:
            return f"; did you mean {same[0]}?"
        if len(text) > _LONGEST:
            return ""
        wider = re.sub(r"\*+", "**", text)
        if wider != text and self._of_glob(wider):
            return f"; * stays within a segment and ** crosses dots: did you mean {wider}?"
        deeper = f"**.{text}"
        if self._of_glob(deeper):
            return f"; did you mean {deeper}?"
        return did_you_mean(text, self._paths, count=2)

    @cached_property
    def _types(self) -> dict[str, None]:
        return dict.fromkeys(name for subject in self._subjects for name in subject.types)

    @cached_property
    def _paths(self) -> dict[str, None]:
        """Every name and every path above it, in the subjects' order."""
        names = (name for subject in self._subjects for name in subject.names)
        return dict.fromkeys(p for name in names if len(name) <= _LONGEST for p in paths_of(name))


def why_nothing(selector: Selector) -> str:
    """One line for a selector that means nothing, though none of its atoms is unmet."""
    alone = ", though each of its parts alone does" if len(selector.atoms) > 1 else ""
    return f"{shortened(selector.text)!r} matches nothing{alone}"
