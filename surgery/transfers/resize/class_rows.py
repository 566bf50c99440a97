"""A head's rows for those classes that stay, each at its new place; the others stay fresh.

Never without being asked: no shape says which class is which, and ten classes are not the same
ten. ``fc=class-rows:0=7,2=1`` says that the new class 0 was 7 and the new class 2 was 1;
``file=rows.txt`` has such pairs one a line, ``old=a.txt,new=b.txt`` the labels of all classes in
their order, of which equal ones stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import cast

import torch

from surgery.checkpoint.text import lines_of, read_text
from surgery.class_rows import Pairs, rows_by_labels
from surgery.errors import LineError, Problem, SurgeryError
from surgery.transfers.resize.resizer import Case, Fit, Resizer, Settings

#: No network has more classes, and Python refuses to read numbers of thousands of digits.
_PAIR = re.compile(r"(\d{1,9})\s*=\s*(\d{1,9})")


@dataclass(frozen=True, slots=True)
class ClassRows(Resizer):
    """Its settings are not options with names but pairs, given in one of three ways."""

    def read(self, given: Mapping[str, str]) -> Settings:
        """``rows``: pairs (new class, old class); beside them ``old`` and ``new``, how many
        classes there are, where labels told.
        """
        if given.keys() == {"old", "new"}:
            labels = {f"{side}={given[side]}": _lines(given[side]) for side in ("old", "new")}
            old, new = labels.values()
            if not new:
                raise SurgeryError(f"class-rows: {given['new']} has no labels")
            return {"rows": rows_by_labels(labels), "old": len(old), "new": len(new)}
        if given.keys() == {"file"}:
            return {"rows": _pairs(given["file"], enumerate(_lines(given["file"]), start=1))}
        if given and not {"old", "new", "file"} & given.keys():
            entries = [(0, f"{new}={old}") for new, old in given.items()]
            return {"rows": _pairs("<class-rows>", entries)}
        raise SurgeryError(
            "class-rows: expected NEW=OLD pairs of class numbers, file=ROWS, or old=LABELS "
            f"and new=LABELS, found {dict(given) or 'nothing'}"
        )


def _lines(path: str) -> list[str]:
    return lines_of(read_text(path))


def _pairs(path: str, lines: Iterable[tuple[int, str]]) -> Pairs:
    pairs: dict[int, int] = {}
    problems = []
    for number, raw in lines:
        line = raw.partition("#")[0].strip()
        if match := _PAIR.fullmatch(line):
            new, old = map(int, match.groups())
            if new in pairs:
                problems.append(Problem(number, f"the new class {new} is given more than once"))
            pairs[new] = old
        elif line:
            problems.append(Problem(number, f"expected NEW=OLD class numbers, found {line!r}"))
    if problems:
        raise LineError(path, problems)
    return tuple(sorted(pairs.items()))


def decide(case: Case) -> Fit | str:
    """Every class that is named is there, and nothing but the number of rows differs."""
    is_same = case.source.shape == case.target.shape != ()
    if not is_same and not case.differs_in(0):
        return ""
    old, new = case.source.shape[0], case.target.shape[0]
    for side, classes in (("old", old), ("new", new)):
        if case.settings.get(side, classes) != classes:
            return f"{case.settings[side]} {side} labels for {classes} classes"
    rows = cast("Pairs", case.settings["rows"])
    for at, was in rows:
        if at >= new or was >= old:
            return f"{at}={was}: there are {new} new classes and {old} old ones, from 0"
    fresh = new - len(rows)
    reason = f"{len(rows)} of {new} classes from {old}, {fresh} fresh"
    return Fit(reason, {"rows": rows}, fresh * prod(case.target.shape[1:]))


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(old classes, ...) to (new classes, ...)."""
    for new, old in cast("Pairs", settings["rows"]):
        target[new] = source[old]
    return target


RESIZER = ClassRows(
    "class-rows",
    "heads that differ in their number of rows alone, if at all",
    "the classes' own rows, so their own logits",
    decide,
    compute,
    automatic=False,
)
