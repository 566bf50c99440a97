"""The regular expressions of globs, against a matcher that tries everything."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.patterns.globs import glob_to_regex, run_to_regex, wildcards

#: A ``**`` that is a whole segment takes the dot after it along, as it may stand for none.
TOKEN = re.compile(r"(?:\A|(?<=\.))\*\*+\.|\*\*+|\*|\?|\[[^\]]+\]|.")
GLOBS = st.lists(
    st.sampled_from(["a", "b", ".", "*", "**", "?", "[ab]", "[!a]", "[a-b]"]),
    min_size=1,
    max_size=9,
).map("".join)
NAMES = st.text(alphabet="ab.", max_size=12)


def rests(tokens: list[str], name: str, shortest: int = 0) -> Iterator[str]:
    """What may be left of the name behind the tokens; a ``*`` takes ``shortest`` or more."""
    if not tokens:
        yield name
        return
    token, *others = tokens
    for taken in range(len(name) + 1):
        if may_stand_for(token, name[:taken], shortest):
            yield from rests(others, name[taken:], shortest)


def may_stand_for(token: str, text: str, shortest: int) -> bool:
    if token.endswith("**."):
        return not text or text.endswith(".")
    if token.startswith("**"):
        return True
    if token == "*":
        return "." not in text and len(text) >= shortest
    if token == "?":
        return len(text) == 1 and text != "."
    if token.startswith("["):
        members = token.strip("[!]").replace("a-b", "ab")
        return len(text) == 1 and text != "." and (text in members) != token.startswith("[!")
    return text == token


def ends_a_segment(rest: str) -> bool:
    return not rest or rest.startswith(".")


@given(GLOBS, NAMES)
def test_a_glob_means_what_trying_everything_finds(glob: str, name: str) -> None:
    tokens = TOKEN.findall(glob)
    meant = re.compile(glob_to_regex(glob)).match(name) is not None
    assert meant == any(map(ends_a_segment, rests(tokens, name)))
    whole = re.compile(glob_to_regex(glob, end=r"\Z")).match(name) is not None
    assert whole == ("" in rests(tokens, name))


@given(GLOBS, NAMES)
def test_the_first_run_is_found_and_what_it_carries_makes_it_again(glob: str, name: str) -> None:
    tokens = TOKEN.findall(glob)

    def may_begin(at: int) -> bool:
        beside = name[at : at + 1] if glob.startswith(".") else name[at - 1] if at else "."
        found = rests(tokens, name[at:], shortest=1) if beside == "." else ()
        return any(glob.endswith(".") or ends_a_segment(rest) for rest in found)

    first = next(filter(may_begin, range(len(name) + 1)), None)
    run = re.compile(run_to_regex(glob)).match(name)
    assert (run.start(1) if run else None) == first
    if run:
        _, *carried = run.groups()
        assert len(carried) == wildcards(glob)
        texts = iter(carried)
        again = [token if token in ("a", "b", ".") else next(texts) for token in tokens]
        assert "".join(again) == name[run.start(1) : run.end()]


@pytest.mark.parametrize(
    ("glob", "name"),
    [
        pytest.param("*a*a*a*c", "a" * 600, id="stars-in-a-segment"),
        pytest.param("**a" * 8 + "c", ".".join("a" * 200), id="deep-stars-in-a-segment"),
        pytest.param("**.a." * 8 + "c", ".".join("ab" * 100), id="deep-segments"),
        pytest.param("**.*a*b?*[c]", ".".join(["a" * 50] * 200), id="both"),
        pytest.param("*a*a*a*c", "a" * 1_000_000, id="a-megabyte"),
        pytest.param("**.a*b.**.c", "a." * 500_000 + "a", id="a-megabyte-deep"),
    ],
)
def test_time_grows_with_the_name_alone(glob: str, name: str) -> None:
    """A thousand characters in less than a hundredth of a second of this process, that is."""
    matches, run = re.compile(glob_to_regex(glob)), re.compile(run_to_regex(glob))
    started = time.process_time()
    assert matches.match(name) is None
    assert run.match(name) is None
    assert time.process_time() - started < 0.01 * max(1, len(name) / 1000)
