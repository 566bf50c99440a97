import json
import math

import pytest
import torch
from tiny_models import TinyNet, randomise

from surgery.difference import compare
from surgery.transfers.source import Tensors


def difference(one, other):
    return compare(Tensors(one), Tensors(other))


def test_the_same_is_false():
    state = randomise(TinyNet()).state_dict()
    found = difference(state, dict(state))
    assert not found
    assert found.equal == len(state)


@pytest.mark.parametrize(
    ("one", "other", "elements", "largest", "relative"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.5], 1, 0.5, 0.25, id="one-element"),
        pytest.param([0.0, 0.0], [0.0, 3.0], 1, 3.0, math.inf, id="no-scale"),
        pytest.param([math.inf, 4.0], [1.0, 2.0], 2, math.inf, math.inf, id="infinite-once"),
        pytest.param(
            [math.inf, 4.0], [math.inf, 2.0], 1, 2.0, 0.5, id="equal-infinities-do-not-count"
        ),
        pytest.param([math.inf], [-math.inf], 1, math.inf, math.inf, id="infinities-apart"),
        pytest.param([math.nan], [1.0], 1, math.inf, math.inf, id="nothing-finite"),
    ],
)
def test_values(one, other, elements, largest, relative):
    (found,) = difference({"x": torch.tensor(one)}, {"x": torch.tensor(other)}).values
    assert (found.elements, found.largest, found.relative) == (elements, largest, relative)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([math.nan], [math.nan], id="nan"),
        pytest.param([0.0], [-0.0], id="zeros"),
        pytest.param([], [], id="empty"),
    ],
)
def test_what_counts_as_equal(one, other):
    assert not difference({"x": torch.tensor(one)}, {"x": torch.tensor(other)})


def test_what_cannot_be_read_cannot_agree():
    state = {"a": torch.zeros(2), "b": torch.eye(2).to_sparse()}
    found = difference(state, state)
    assert found
    assert found.incomparable == (("b", "a tensor of layout sparse_coo"),)
    assert "cannot be compared" in str(found)


def test_entries_that_are_no_tensors_are_said_and_are_no_difference():
    found = difference({"a": torch.zeros(2), "epoch": 3}, {"a": torch.zeros(2)})
    assert not found
    assert "epoch is no tensor and was not compared" in str(found)


def test_names_shapes_and_dtypes():
    one = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    other = {"b": torch.zeros(3), "c": torch.zeros(2).half(), "d": torch.zeros(1)}
    found = difference(one, other)
    assert [spec.name for spec in found.only_first] == ["a"]
    assert [spec.name for spec in found.only_second] == ["d"]
    assert [pair[0].name for pair in found.respecified] == ["b", "c"]
    assert "0 tensors are equal, 2 differ, 2 are in one only" in str(found)


def test_json_has_no_infinity():
    found = difference({"x": torch.tensor([math.inf])}, {"x": torch.tensor([1.0])})
    assert found.to_dict()["values"] == [["x", 1, None, None]]
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
)
def test_8_bit_floats(dtype):
    one, other = torch.tensor([1.0, 2.0]).to(dtype), torch.tensor([1.0, 4.0]).to(dtype)
    (found,) = difference({"x": one}, {"x": other}).values
    assert (found.elements, found.largest, found.relative) == (1, 2.0, 1.0)


def test_4_bit_floats_are_compared_one_by_one():
    # 0x72 is the pair (1.0, 6.0), 0xFA is (-1.0, -6.0), 0x7A is (-1.0, 6.0).
    one, other, half = (
        torch.tensor([pair], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        for pair in (0x72, 0xFA, 0x7A)
    )
    (both,) = difference({"x": one}, {"x": other}).values
    assert (both.elements, both.largest, both.relative) == (2, 12.0, 2.0)
    (single,) = difference({"x": one}, {"x": half}).values
    assert (single.elements, single.largest) == (1, 2.0)
    assert not difference({"x": one}, {"x": one.clone()})


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.bfloat16])
def test_every_kind_of_number(dtype):
    one, other = torch.tensor([0, 1]).to(dtype), torch.tensor([1, 1]).to(dtype)
    (found,) = difference({"x": one}, {"x": other}).values
    assert (found.elements, found.largest) == (1, 1.0)
