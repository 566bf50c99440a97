from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import SelectorError
from surgery.patterns import Subject, Subjects, parse_selector


@pytest.mark.parametrize(
    ("text", "kind", "guessed"),
    [
        ("layer1.*", "glob", False),
        ("layer[34]/**", "glob", False),
        ("layer1|layer2", "regex", True),
        (r"layer\d", "regex", True),
        ("^conv", "regex", True),
        ("bias$", "regex", True),
        ("(a)", "regex", True),
        ("a+", "regex", True),
        ("/conv/", "regex", False),
        ("type:Batch*", "type", False),
        (":new", "state", False),
        (":1d", "class", False),
    ],
)
def test_says_how_each_atom_was_read(text: str, kind: str, guessed: bool) -> None:
    (atom,) = parse_selector(text).atoms
    assert (atom.text, atom.kind, atom.guessed) == (text, kind, guessed)


def test_keeps_its_text_and_shape() -> None:
    selector = parse_selector(" a & !b ,/c, d & e/ ")
    assert str(selector) == "a & !b ,/c, d & e/"
    assert [[a.text for a in conj] for conj in selector.union] == [["a", "b"], ["/c, d & e/"]]
    assert [atom.negated for atom in selector.atoms] == [False, True, False]
    assert parse_selector(selector) is selector


TEXTS = st.text(max_size=20) | st.text(alphabet="ab1.*?[]!&,/:\\(|){}+^$<>#=-P\n ", max_size=16)


@given(TEXTS)
def test_any_text_is_read_or_refused_and_reads_the_same_again(text: str) -> None:
    with suppress(SelectorError):
        selector = parse_selector(text)
        assert parse_selector(str(selector)) == selector
        Subjects([Subject(("a.b1", "b"), ("A",))]).meant_by(selector)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(None, "a pattern is text, not None", id="none"),
        pytest.param(5, "a pattern is text, not 5", id="number"),
        pytest.param(b"a", "a pattern is text, not b'a'", id="bytes"),
        pytest.param({"a": None}, "a pattern is text", id="dict"),
        pytest.param("a\0", "at position 1", id="nul"),
        pytest.param("ab\ud800", "at position 2", id="half-a-character"),
        pytest.param("\ufefflayer1", "at position 0", id="byte-order-mark"),
        pytest.param("(" * 5000 + "a" + ")" * 5000, "has 10,001 characters", id="5000-brackets"),
        pytest.param("(" * 2000 + "a" + ")" * 2000, "brackets within one another", id="deep"),
        pytest.param("/" + "(" * 5000 + "/", "brackets within one another", id="none-closed"),
        pytest.param("[" * 5000, "hold a set of characters", id="square"),
        pytest.param("{" * 5000, "braces belong to", id="braces"),
        pytest.param("!" * 5000, "more than one !", id="negations"),
        pytest.param("," * 5000, "lacks a name", id="commas"),
        pytest.param("*a" * 6000, "has 12,000 characters", id="long-glob"),
    ],
)
def test_what_cannot_be_a_selector_is_one_line(text: object, why: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert why in caught.value.message
    assert len(caught.value.message) < 400


def test_a_plain_name_may_be_a_megabyte_long() -> None:
    name = "a" * 1_000_000
    subjects = Subjects([Subject((f"{name}.weight",))])
    assert subjects.meant_by(parse_selector(name)).indices == {0}


@given(st.lists(st.text(alphabet="a.-/\0", max_size=5), unique=True), st.sampled_from(["a", "a-"]))
def test_a_plain_name_covers_itself_and_what_is_below_it(names: list[str], asked: str) -> None:
    """However the names around it are sorted."""
    subjects = Subjects(Subject((name,)) for name in names)
    meant = {names[index] for index in subjects.meant_by(parse_selector(asked)).indices}
    assert meant == {name for name in names if name == asked or name.startswith(f"{asked}.")}
