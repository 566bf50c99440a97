"""Names that nobody would choose go through a mapping as any other does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import MappingError

ODD = {
    "empty": "",
    "a-space": " ",
    "spaces": "my own name",
    "a-dot": ".",
    "dots-only": "...",
    "another-script": "слой.вес",
    "nul": "a\0b",
    "half-a-character": "\ud800",
    "a-megabyte": "x" * 1_000_000,
    "a-megabyte-deep": "a." * 500_000 + "b",
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "lines",
    [
        {"0": "0"},
        {"^0": "0"},
        {"0.*": "0.*"},
        {"**.weight": "**.weight"},
        {r"/(?i)^0\.WEIGHT$/": "0.weight"},
    ],
    ids=["name", "anchored", "star", "any-depth", "regex"],
)
def test_beside_what_is_mapped(name, lines):
    source = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), name: torch.zeros(1)}
    outcome = surgery.transfer(source, nn.Sequential(nn.Linear(2, 2)), mapping=lines)
    assert outcome.loaded == ("0.weight", "0.bias")
    assert [unused.source.name for unused in outcome.plan.unused] == [name]


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_beside_a_line_that_matches_nothing(name):
    with pytest.raises(MappingError) as caught:
        surgery.transfer({name: torch.zeros(1)}, nn.Linear(1, 1), mapping={"nope": "weight"})
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("name", [" ", "my own name", "слой", "#1", "x" * 1_000_000])
def test_a_target_is_addressed_by_a_regular_expression(name):
    model = nn.Module()
    model.register_parameter(name, nn.Parameter(torch.zeros(2)))
    outcome = surgery.transfer({"w": torch.ones(2)}, model, mapping={"^w$": name})
    assert outcome.loaded == (name,)
    assert model.get_parameter(name).tolist() == [1, 1]
