"""What patterns that could run for minutes take on a long name, beside the same on a short one:
``python -m bench.patterns``.

The ratio is to be held against that of the names' lengths, or for a person's regular expression
against its budget in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from bench.pairs import spread
from surgery.errors import SelectorError
from surgery.patterns import Rewriting, Subject, Subjects, parse_selector, read_pairing

PAIRS = 9

#: A title, a pattern, a short name and a long one; none of them matches.
CASES = (
    ("stars within a segment", "*a*a*a*c", "a" * 10, "a" * 600),
    ("stars within a segment", "*a*a*a*c", "a" * 10, "a" * 1_000_000),
    ("eight times any depth", "**.a." * 8 + "c", ".".join("ab" * 5), ".".join("ab" * 100)),
    ("eight times any depth", "**.a." * 8 + "c", ".".join("ab" * 5), ".".join("ab" * 250_000)),
    ("a regular expression", "/(a+)+$/", "a" * 10 + "b", "a" * 600 + "b"),
    ("a regular expression", "/(a|aa)+$/", "a" * 10 + "b", "a" * 600 + "b"),
)


def compare_patterns() -> None:
    """Print both times of each case, as a selector and as the left side of a line."""
    for title, pattern, short, long in CASES:
        for role, ask in (("selector", _select), ("line", _rewrite)):
            pairs = [
                (
                    _milliseconds(partial(ask, pattern, long)),
                    _milliseconds(partial(ask, pattern, short)),
                )
                for _ in range(PAIRS)
            ]
            ours, theirs = zip(*pairs, strict=True)
            print(
                f"\n{title}, {pattern} as a {role}: a name of {len(long):,} characters against "
                f"{len(short)}\n"
                f"  long    {spread(ours, 'ms')}\n"
                f"  short   {spread(theirs, 'ms')}\n"
                f"  ratio   {spread([a / b for a, b in pairs], '')}"
            )


def _select(pattern: str, name: str) -> None:
    subjects = Subjects([Subject((name,))])
    with suppress(SelectorError):  # past its budget
        subjects.meant_by(parse_selector(pattern))


def _rewrite(pattern: str, name: str) -> None:
    with suppress(SelectorError):
        list(Rewriting(read_pairing(pattern, "x", carries=False)).runs(name))


def _milliseconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    compare_patterns()
