"""The nearest names, among few and among very many."""

from __future__ import annotations

import pytest

from surgery.errors import did_you_mean, nearest


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
