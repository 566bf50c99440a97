"""Regular expressions of a person: bounded in time and size, and read in the person's positions."""

from __future__ import annotations

import time

import pytest

from surgery.errors import SelectorError
from surgery.patterns import Rewriting, Subject, Subjects, parse_selector, read_pairing

STUCK = r"(a|aa)+$"
LONG = "a" * 600 + "b"


def subjects(*names: str) -> Subjects:
    return Subjects(Subject((name,)) for name in names)


def test_an_expression_that_takes_too_long_names_itself_and_the_name() -> None:
    started = time.process_time()
    with pytest.raises(SelectorError) as caught:
        subjects("short", LONG).meant_by(parse_selector(f"/{STUCK}/"))
    assert STUCK in caught.value.message
    assert LONG[:40] in caught.value.message
    assert time.process_time() - started < 5


def test_all_names_share_one_budget() -> None:
    """Each takes a part of it, and there are a thousand."""
    names = [f"{number}{'a' * 26}b" for number in range(1000)]
    started = time.process_time()
    with pytest.raises(SelectorError, match="stuck on"):
        subjects(*names).meant_by(parse_selector(r"/^\d+(a|aa)+$/"))
    assert time.process_time() - started < 5


def test_what_is_quick_may_be_asked_of_very_many_names() -> None:
    names = [f"blocks_{number}.weight" for number in range(50_000)]
    meant = subjects(*names).meant_by(parse_selector(r"/^blocks_\d*7\./"))
    assert len(meant.indices) == 5000


def test_a_line_is_bounded_too() -> None:
    rewriting = Rewriting(read_pairing(f"/{STUCK}/", "b"))
    with pytest.raises(SelectorError, match="stuck on"):
        list(rewriting.runs(LONG))


@pytest.mark.parametrize(
    ("text", "position"),
    [("/ab(c/", 5), ("ab(c", 4), ("/a)b/", 2), ("(?i)a(", 6), ("/(?i)[b-a]/", 9)],
)
def test_positions_are_those_of_the_text(text: str, position: int) -> None:
    for read in (parse_selector, lambda text: read_pairing(text, "x")):
        with pytest.raises(SelectorError, match=rf"at position {position}$"):
            read(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("/((((a{1000}){1000}){1000}){1000})/", "longer than any name", id="repeats"),
        pytest.param("/(?:[ab]{99999}){99999}/", "longer than any name", id="repeats-of-a-set"),
        pytest.param("/a{99999999999999999999}/", "longer than any name", id="a-huge-count"),
        pytest.param(r"/\p{Nowhere}/", "is no regular expression", id="a-property"),
        pytest.param(r"/(?P<a/", "is no regular expression", id="half-a-name"),
    ],
)
def test_what_would_not_be_compiled_in_a_moment_is_refused(text: str, why: str) -> None:
    with pytest.raises(SelectorError, match=why):
        parse_selector(text)


def test_counts_that_a_name_may_have_are_read() -> None:
    meant = subjects("a" * 99 + ".w", "a.w").meant_by(parse_selector(r"/^(a{9}){11}\.w{1}$/"))
    assert meant.indices == {0}
