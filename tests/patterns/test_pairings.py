from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import SelectorError
from surgery.patterns import Rewriting, read_pairing


def rewritten(left: str, right: str, name: str) -> str:
    new, at = "", 0
    for start, end, text in Rewriting(read_pairing(left, right)).runs(name):
        new, at = new + name[at:start] + text, end
    return new + name[at:]


@pytest.mark.parametrize(
    ("left", "right", "name", "expected"),
    [
        pytest.param("a", "x", "a.b.a", "x.b.x", id="each-run-of-a-name"),
        pytest.param("a", "x", "a.a.a", "x.x.x", id="neighbours"),
        pytest.param("a.a", "x", "a.a.a", "x.a", id="no-overlap"),
        pytest.param("a", "x", "ba.ab.aa", "ba.ab.aa", id="whole-segments"),
        pytest.param("a b", "x", "a b.w", "x.w", id="a-space"),
        pytest.param("слой", "layer", "слой.вес", "layer.вес", id="other-scripts"),
        pytest.param("kernel:0", "weight", "conv.kernel:0", "conv.weight", id="a-colon"),
        pytest.param("a/b", "a.b", "a/b.w", "a.b.w", id="a-slash-is-a-slash"),
        pytest.param(".gamma", ".weight", "ln.gamma", "ln.weight", id="from-the-dot"),
        pytest.param(".gamma", ".weight", "gamma", "gamma", id="from-a-dot-that-is-there"),
        pytest.param("model.", "", "model.a", "a", id="with-the-dot"),
        pytest.param("model.", "", "a.model", "a.model", id="with-a-dot-that-is-there"),
        pytest.param("l.*.a", "m.*.b", "l.1.a.l.2.a", "m.1.b.m.2.b", id="star"),
        pytest.param("norm*", "ln*", "norm1.norm", "ln1.norm", id="star-of-one-at-least"),
        pytest.param("l[34].*", "m*.*", "l3.w.l5.w", "m3.w.l5.w", id="a-set-is-carried"),
        pytest.param("l?", "m*", "l1.l10", "m1.l10", id="one-character-is-carried"),
        pytest.param("a.**.w", "x.**.y", "a.b.c.w.v", "x.b.c.y.v", id="segments-are-carried"),
        pytest.param("a.**.w", "x.**.y", "a.w", "x..y", id="no-segments"),
        pytest.param("**.w", "**.y", "a.b.w", "a.b.y", id="segments-from-the-root"),
        pytest.param("a**z", "b**y", "a1.2z.w", "b1.2y.w", id="across-dots"),
        pytest.param("*_*", "*.*", "1_2_3", "1.2_3", id="the-first-is-the-shortest"),
        pytest.param(r"^l_(\d+)", r"l.\1", "l_1.l_2", "l.1.l_2", id="regex"),
        pytest.param(r"/l_(?P<n>\d+)/", r"l.\g<n>", "l_1.l_2", "l.1.l.2", id="between-slashes"),
        pytest.param("/(?i)BN/", "norm", "bn.Bn.bnx", "norm.norm.bnx", id="inline-flag"),
        pytest.param("(?i)^BN$", "norm", "bn", "norm", id="inline-flag-in-bare-text"),
        pytest.param("/(?x) b n  # a norm/", "norm", "bn.w", "norm.w", id="verbose"),
        pytest.param(r"^a\.b", "x", "a.b.c", "x.c", id="anchored-text"),
        pytest.param(r"^a\.b", "x", "a.bc", "a.bc", id="anchored-to-whole-segments"),
        pytest.param(r"^a\.b$", "x", "a.b.c", "a.b.c", id="anchored-at-both-ends"),
        pytest.param(r"^a\.", "", "a.b", "b", id="anchored-with-the-dot"),
    ],
)
def test_rewrites(left: str, right: str, name: str, expected: str) -> None:
    assert rewritten(left, right, name) == expected


@given(st.text(alphabet="ab.", min_size=1, max_size=8), st.text(alphabet="ab.", max_size=12))
def test_a_plain_name_is_found_as_a_glob_would_find_it(text: str, name: str) -> None:
    """The empty-most glob that is none: a set of its one letter in place of the first."""
    at = next((at for at, letter in enumerate(text) if letter != "."), None)
    if at is not None:
        glob = f"{text[:at]}[{text[at]}]{text[at + 1 :]}"
        names, globs = (Rewriting(read_pairing(*sides)) for sides in ((text, "x"), (glob, "*")))
        assert [run[:2] for run in names.runs(name)] == [run[:2] for run in globs.runs(name)]


@pytest.mark.parametrize(
    ("left", "right", "why"),
    [
        pytest.param("a.*", "b", "has 1 '*' and its replacement 0", id="a-star-is-lost"),
        pytest.param("a[12].?.**", "b.*", "has 3 '*' and its replacement 1", id="others-too"),
        pytest.param("(a)", r"\2", "invalid group reference", id="a-group-that-is-not-there"),
        pytest.param("(?P<n>a)", r"\g<m>", "unknown group name", id="a-name-that-is-not-there"),
        pytest.param("(a)", "\\q", "bad escape", id="an-escape-that-is-not-there"),
        pytest.param("/a", "b", "that no / ends", id="no-closing-slash"),
        pytest.param("a{2}", "b", "braces belong to", id="braces"),
        pytest.param("a", "b\0", "at position 1", id="nul-on-the-right"),
    ],
)
def test_sides_that_do_not_fit(left: str, right: str, why: str) -> None:
    with pytest.raises(SelectorError) as caught:
        read_pairing(left, right)
    assert why in caught.value.message


SIDES = st.text(max_size=12) | st.text(alphabet="ab1.*?[]!&,/:\\(|){}+^$<>#=-gP ", max_size=12)


@given(SIDES, SIDES, st.text(alphabet="ab1.", max_size=10))
def test_any_two_texts_are_read_or_refused(left: str, right: str, name: str) -> None:
    with suppress(SelectorError):
        for start, end, _ in Rewriting(read_pairing(left, right, carries=False)).runs(name):
            assert 0 <= start <= end <= len(name)


def test_what_is_left_out_carries_nothing() -> None:
    assert read_pairing("a.*", "(unused)", carries=False).right == "(unused)"


@pytest.mark.parametrize(
    ("left", "segments"),
    [
        ("a.*.b?.c", ("a", "c")),
        (r"^a\.0\.b$", ("a", "0", "b")),
        (r"^a\.(\d+)", ()),
        ("a|b", ()),
        ("**", ()),
    ],
)
def test_segments_that_a_name_must_have(left: str, segments: tuple[str, ...]) -> None:
    assert read_pairing(left, "x", carries=False).segments == segments
