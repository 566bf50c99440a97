import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import Problem, RuleError, SurgeryError
from surgery.wording import (
    LONGEST_TEXT,
    LONGEST_WORD,
    bytes_text,
    counted,
    first_lines,
    listed,
    percent_text,
    printable,
    shape_text,
    value_text,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(counted(1, "tensor"), "1 tensor", id="one"),
        pytest.param(counted(1024, "tensor"), "1,024 tensors", id="many"),
        pytest.param(listed(["a", "b", "c"]), "a, b, c", id="all-listed"),
        pytest.param(listed(list("abcdefg")), "a, b, c and 4 more", id="rest-counted"),
        pytest.param(bytes_text(1023), "1023 B", id="bytes"),
        pytest.param(bytes_text(1024), "1.0 KiB", id="kibibyte"),
        pytest.param(bytes_text(5 << 50), "5120.0 TiB", id="no-larger-unit"),
        pytest.param(percent_text(0.99999), "99.99%", id="less-than-all"),
        pytest.param(percent_text(1), "100%", id="all"),
        pytest.param(value_text(None), "", id="no-value"),
        pytest.param(value_text((0.9, 0.999)), "0.9,0.999", id="pair"),
        pytest.param(value_text(1 / 3), "0.3333", id="four-digits"),
        pytest.param(shape_text((64,)), "(64)", id="one-axis"),
        pytest.param(shape_text(()), "()", id="scalar"),
    ],
)
def test_texts(text, expected):
    assert text == expected


def test_first_lines():
    assert first_lines(["a", "b"], 2) == ["a", "b"]
    assert first_lines(list("abc"), 2) == ["a", "b", "... and 1 more"]


@given(st.text())
def test_what_is_printable_drives_no_terminal(text):
    assert printable(text).isprintable()
    if text.isprintable() and len(text) <= LONGEST_WORD:
        assert printable(text) == text


@given(st.lists(st.text("ab\x1b\ud800", max_size=3000), max_size=4))
def test_what_is_printable_fills_none(words):
    shown = printable(" ".join(words))
    assert len(shown) <= LONGEST_TEXT
    assert all(len(word) <= LONGEST_WORD for word in shown.split())


def test_an_exceptions_text_lists_a_hundred_problems_and_its_details_have_all():
    error = SurgeryError("no", [f"line {n}" for n in range(5000)])
    assert len(str(error).splitlines()) == 102
    assert str(error).endswith("... and 4,900 more")
    assert len(error.to_dict()["details"]) == 5000
    rules = RuleError("r.txt", [Problem(n, "no") for n in range(1, 5001)])
    assert len(str(rules).splitlines()) == 101
    assert len(rules.problems) == 5000
