"""The nearest names, among few and among very many; and errors of very much."""

from __future__ import annotations

import pytest

from surgery.errors import LineError, Problem, SurgeryError, did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "candidates", "expected"),
    [
        ("layer5", ["layer4", "fc"], ("layer4",)),
        ("zzz", ["layer4", "fc"], ()),
        ("layer4", [], ()),
    ],
)
def test_nearest(name, candidates, expected):
    assert nearest(name, candidates) == expected


def test_did_you_mean():
    assert did_you_mean("layer5", ["layer4"]) == "; did you mean layer4?"
    assert did_you_mean("zzz", ["layer4"]) == ""


def test_of_very_many_names_few_are_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "difflib.get_close_matches", lambda name, known, **_: compared.extend(known) or known[:1]
    )
    names = [f"blocks.{i}.{'x' * 40}.weight" for i in range(200_000)]
    nearest("blocks.3.atn.weight", [*names, "blocks.3.attn.weight"])
    assert len(compared) <= 5000
    compared.clear()
    assert nearest("head.bias", [*names, "heads.bias"]) == ("heads.bias",)
    assert compared == ["heads.bias"]


def test_of_endless_names_none_is_near():
    assert nearest("a" * 1_000_000, ["a" * 999_999]) == ()
    assert nearest("ab", ["a" * 1_000_000, "abc"]) == ("abc",)


def test_a_hundred_problems_are_listed_and_the_rest_counted():
    error = LineError("map.txt", [Problem(line, "no name") for line in range(1, 1235)])
    first, *others = str(error).splitlines()
    assert first == "map.txt:1: no name"
    assert (len(others), others[-2:]) == (100, ["map.txt:100: no name", "... and 1,134 more"])
    data = error.to_dict()
    assert (len(data["problems"]), data["total"]) == (100, 1234)
    assert len(error.problems) == 1234


def test_an_endless_name_leaves_a_line_that_can_be_read():
    error = SurgeryError(f"{'a' * 1_000_000} is not there", [f"{'b' * 1_000_000} is"])
    assert error.message.startswith("aaa")
    assert error.message.endswith("a is not there")
    assert len(str(error)) < 5000
