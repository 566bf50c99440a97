"""One thread, a cache folder of the tests' own, and how many inputs the fuzz tests tried."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest

Tally = Callable[[str], None]

#: Before torch is imported, and for what tests start. On a machine that is busy, threads that wait
#: for each other make a depthwise convolution take a minute; models here gain nothing by several.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_TALLIES = pytest.StashKey[dict[str, Counter[str]]]()


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory):
    """Tests neither believe nor change what the person who runs them has remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGERY_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str], Tally]:
    """``tally("zip, mutated")`` gives a function that counts one input by its outcome."""
    tallies = request.config.stash.setdefault(_TALLIES, {})

    def named(name: str) -> Tally:
        counter = tallies.setdefault(name, Counter())
        return lambda outcome: counter.update((outcome,))

    return named


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Under ``-q`` too: a fuzz test that tried nothing has shown nothing."""
    for name, counter in terminalreporter.config.stash.get(_TALLIES, {}).items():
        outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(counter.items()))
        terminalreporter.write_line(f"fuzz: {name}: {counter.total():,} inputs ({outcomes})")
