r"""Lines of a mapping that give new names: ``pattern -> replacement``.

::

    encoder -> backbone                    # whole segments, anywhere in the name
    layers.*.attn -> blocks.*.attention    # what each * stands for is carried over
    ^blocks_(\d+)\. -> blocks.\1.            # a regular expression, with its groups
    aux_head -> (unused)                   # whatever has it in its name is left out

How a left side is read and what it means says :mod:`surgery.patterns`. All lines look at the name
as it stands in the file, so two lines can swap two names; where two lines want the same text, the
earlier has it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from surgery.errors import MappingError, Problem, SelectorError, did_you_mean
from surgery.matching.recipes.text import misspelt_function
from surgery.patterns import Pairing, Rewriting, Run, has_wildcards, read_pairing
from surgery.wording import shortened
from surgery.wrappers import unwrap_name

#: The replacement that leaves a tensor out.
UNUSED = "(unused)"


def read_rename(left: str, right: str) -> Pairing:
    """Raises SelectorError where the line cannot be read."""
    if right.startswith("(") and right != UNUSED and (near := did_you_mean(right, [UNUSED])):
        raise SelectorError(f"expected a new name or {UNUSED}, found {right!r}{near}")
    return read_pairing(left, right, carries=right != UNUSED)


def applied(
    lines: Mapping[int, Pairing], names: Iterable[str]
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], list[Problem]]:
    """Every name to its new name and the lines that made it (an empty new name is left out), and
    the problems: lines that match nothing, or the first whose regular expression takes too long.

    ``lines`` are by their numbers, in order.
    """
    names = list(names)
    known = _Lines(lines, names)
    try:
        renamed = {name: _rename(name, known) for name in names}
    except MappingError as stuck:
        return {name: (name, ()) for name in names}, [*stuck.problems]
    used = {line for _, used in renamed.values() for line in used}
    dead = {line: pairing for line, pairing in lines.items() if line not in used}
    return renamed, _dead_lines(dead, known.late, names) if dead else []


class _Lines:
    """The lines that may touch a name, found by the rarest segment that they ask for: a file may
    have a line for each of 10,000 layers.

    ``late`` are the lines that came too late for some name: an earlier one had its text.
    """

    def __init__(self, lines: Mapping[int, Pairing], names: Iterable[str]) -> None:
        counts = Counter(segment for name in names for segment in name.split("."))
        self.late: set[int] = set()
        self._lines = lines
        self._running: dict[int, Rewriting] = {}
        self._anywhere: list[int] = []
        self._by_segment: dict[str, list[int]] = {}
        for line, pairing in lines.items():
            rarest = min(pairing.segments, key=counts.__getitem__, default=None)
            known = self._anywhere if rarest is None else self._by_segment.setdefault(rarest, [])
            known.append(line)

    def of(self, name: str) -> Iterator[tuple[int, Rewriting]]:
        """In the file's order, each once."""
        found = {*self._anywhere}
        for segment in {*name.split(".")}:
            found.update(self._by_segment.get(segment, ()))
        for line in sorted(found):
            if line not in self._running:
                self._running[line] = Rewriting(self._lines[line])
            yield line, self._running[line]


def _rename(name: str, lines: _Lines) -> tuple[str, tuple[int, ...]]:
    new, used = _substitute(name, lines)
    clean = unwrap_name(name)
    if clean != name:
        # A line that is held to the beginning of a name means that of the network's own.
        below, used_below = _substitute(clean, lines)
        if len(used_below) > len(used):
            new, used = below, used_below
    return (new, used) if used else (name, ())


def _substitute(name: str, lines: _Lines) -> tuple[str, tuple[int, ...]]:
    """All matches that do not overlap an earlier line's, replaced at once."""
    taken: list[tuple[int, int, str, int]] = []
    left_out = False
    for line, rewriting in lines.of(name):
        for start, end, text in _runs(line, rewriting, name):
            if end > start and all(end <= s or start >= e for s, e, _, _ in taken):
                left_out = left_out or rewriting.pairing.right == UNUSED
                taken.append((start, end, text, line))
            elif end > start:
                lines.late.add(line)
    used = tuple(sorted({line for *_, line in taken}))
    return ("" if left_out else _replaced(name, taken)), used


def _runs(line: int, rewriting: Rewriting, name: str) -> list[Run]:
    try:
        return list(rewriting.runs(name))
    except SelectorError as error:
        raise MappingError("<mapping>", [Problem(line, error.message)]) from None


def _replaced(name: str, taken: Iterable[tuple[int, int, str, int]]) -> str:
    new, at = "", 0
    for start, end, text, _ in sorted(taken):
        new, at = new + name[at:start] + text, end
    # An emptied segment takes its dot with it: `model -> ` drops the prefix.
    return re.sub(r"\.{2,}", ".", new + name[at:]).strip(".")


#: Lines that match nothing, of which the nearest segment is looked for: it takes its time.
_MOST_NEAREST = 20


def _dead_lines(dead: Mapping[int, Pairing], late: set[int], names: list[str]) -> list[Problem]:
    segments = dict.fromkeys(segment for name in names for segment in name.split("."))
    problems = []
    for at, (line, pairing) in enumerate(dead.items()):
        if line in late:
            why = "matches only what an earlier line has renamed; put it first or remove it"
        else:
            near = misspelt_function(pairing.left.text)
            near = near or (_nearest(pairing, segments) if at < _MOST_NEAREST else "")
            why = f"matches none of the {len(names)} source names{near}"
        what = f"{shortened(pairing.left.text)!r} (read as a {pairing.left.kind})"
        problems.append(Problem(line, f"{what} {why}"))
    return problems


def _nearest(pairing: Pairing, segments: Mapping[str, None]) -> str:
    """What may be meant by the first segment that no name has."""
    *_, last = parts = pairing.left.text.split(".")
    unknown = (part for part in parts if part and not has_wildcards(part) and part not in segments)
    return did_you_mean(next(unknown, last), segments)
