"""What surgery raises for a user's mistake.

::

    SurgeryError                 everything below; exit code 2 on the command line
    ├── CheckpointError          a file that cannot be read, or an output not written
    ├── ArchitectureError        an architecture that cannot be named, built or described
    ├── HeadError                the head cannot be found, or cannot be replaced
    ├── SelectorError            a selector that cannot be read, or that matches nothing
    ├── OptimizerError           an optimizer that cannot be named or built
    ├── TrainingError            what a training loop asks for and cannot have
    │   └── StageError           stages that do not fit, go backwards, or would not synchronise
    ├── LineError                lines of a text file, each problem with its file and line
    │   ├── RuleError            of a rules file
    │   └── MappingError         of a mapping
    └── Refused                  the data say no; exit code 1
        ├── TransferRefused      too little would load, or ``strict`` found a difference
        ├── ProofRefused         two networks that do not compute the same with one's weights
        ├── StateRefused         a saved state that is another model's, optimizer's or run's
        ├── DamageRefused        bytes that are not those whose checksum the file records
        └── ValueRefused         values that contradict each other, or that a cast would break

and :class:`SurgeryWarning`, for what was done and probably not meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from surgery.wording import LONGEST_TEXT, first_lines, shortened

#: Lines of details, or problems of one file, that are listed; the rest is counted.
MOST_LISTED = 100


class SurgeryError(Exception):
    """The base of everything raised for a user's mistake.

    ``message`` is one line that names the thing, what was expected and what was found;
    ``details`` are the lines below it: first names of both sides, candidates, what to do.
    """

    exit_code = 2

    def __init__(self, message: str, details: Iterable[str] = ()) -> None:
        self.message = shortened(message, LONGEST_TEXT)
        self.details = tuple(shortened(line, LONGEST_TEXT) for line in details)
        shown = first_lines(self.details, MOST_LISTED)
        super().__init__("\n".join((self.message, *(f"  {line}" for line in shown))))

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON values, for ``--json``."""
        return {
            "kind": type(self).__name__,
            "message": self.message,
            "details": list(self.details),
        }


class CheckpointError(SurgeryError):
    """A file that cannot be read for what it is, or an output that cannot be written."""


class ArchitectureError(SurgeryError):
    """An architecture that cannot be named, built or described."""


class HeadError(SurgeryError):
    """The head cannot be found, or cannot be replaced."""


class SelectorError(SurgeryError):
    """A selector that cannot be read, or that matches nothing."""


class OptimizerError(SurgeryError):
    """An optimizer that cannot be named or built."""


class TrainingError(SurgeryError):
    """What a training loop asks for and cannot have; nothing was changed."""


class StageError(TrainingError):
    """Stages that do not fit the model, that go backwards, or that would not synchronise."""


class Refused(SurgeryError):
    """The input was readable, but the data say no; nothing was changed."""

    exit_code = 1


class TransferRefused(Refused):
    """Too little would be loaded, or ``strict`` found a difference."""


class ProofRefused(Refused):
    """Two networks that were not shown to compute the same. ``proof`` is the proof as JSON."""

    def __init__(self, message: str, details: Iterable[str], proof: dict[str, Any]) -> None:
        super().__init__(message, details)
        self.proof = proof

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "proof": self.proof}


class StateRefused(Refused):
    """A saved state that is another model's, another optimizer's or another run's."""


class DamageRefused(Refused):
    """Bytes that are not those whose checksum the file records: it changed after it was written."""


class ValueRefused(Refused):
    """Values that contradict each other, or that a cast would break."""


class SurgeryWarning(UserWarning):
    """What is allowed, was done, and probably was not meant."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a text file. ``line`` counts from 1; 0 means the file as a whole."""

    line: int
    message: str

    def located(self, path: str) -> str:
        """``rules.txt:3: message``, the form that editors jump to."""
        return f"{path}:{self.line}: {self.message}" if self.line else f"{path}: {self.message}"


class LineError(SurgeryError):
    """Problems in a text file: all of them at once, each with its file and line.

    ``path`` is the file as the user named it (``<rules>`` for text passed in), ``problems``
    are in line order, and ``line`` is the first one's. All are kept, and the first hundred listed,
    in JSON too, with their ``total``.
    """

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        first, *rest = first_lines([each.located(path) for each in self.problems], MOST_LISTED)
        super().__init__(first, rest)
        # Each line begins as editors want it, without an indent.
        self.args = ("\n".join((self.message, *self.details)),)

    @property
    def line(self) -> int:
        return self.problems[0].line

    def to_dict(self) -> dict[str, Any]:
        listed = self.problems[:MOST_LISTED]
        return {
            **super().to_dict(),
            "path": self.path,
            "line": self.line,
            "problems": [{"line": each.line, "message": each.message} for each in listed],
            "total": len(self.problems),
        }


class RuleError(LineError):
    """Lines of a rules file that cannot be read, or that do not fit the model."""


class MappingError(LineError):
    """Lines of a mapping that cannot be read, or that match nothing."""


#: Names that are compared letter by letter, and their letters: the seconds grow with both.
_MOST_COMPARED, _MOST_LETTERS = 5000, 500


def nearest(name: str, candidates: Iterable[str], count: int = 1) -> tuple[str, ...]:
    """The candidates that look most like ``name``, best first; empty where none comes close.

    Of very many candidates, only those with the same last segment or about the same length.
    """
    import difflib

    known = [c for c in dict.fromkeys(candidates) if len(c) <= _MOST_LETTERS]
    if len(name) > _MOST_LETTERS:
        return ()
    if len(known) > _MOST_COMPARED:
        leaf = name.rpartition(".")[2]
        similar = (c for c in known if c.rpartition(".")[2] == leaf or abs(len(c) - len(name)) < 2)
        known = list(islice(similar, _MOST_COMPARED))
    return tuple(difflib.get_close_matches(name, known, n=count, cutoff=0.5))


def did_you_mean(name: str, candidates: Iterable[str], count: int = 1) -> str:
    """``'; did you mean layer4?'``, or nothing where no candidate comes close."""
    found = nearest(name, candidates, count)
    return f"; did you mean {' or '.join(found)}?" if found else ""
