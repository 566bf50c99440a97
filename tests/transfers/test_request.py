"""What no transfer has is refused as the request is made, whoever makes it."""

import io

import pytest
import torch

from surgery.errors import SurgeryError
from surgery.specs import TensorSpec
from surgery.transfers import TransferRequest, plan_transfer
from surgery.transfers.planning import plan

STATE = {"weight": torch.ones(2, 2)}


def request(**values):
    return TransferRequest(source=STATE, target=torch.nn.Linear(2, 2, bias=False), **values)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("fresh", 5, "found 5"),
        ("fresh", b"x", "found b'x'"),
        ("fresh", [None], "found None"),
        ("fresh", {"a": "b"}, "found {'a': 'b'}"),
        ("hints", 5, "found 5"),
        ("hints", {"a": 1}, "found 1"),
        ("hints", ["a -> b", 2], "found 2"),
        ("key", 5, "found 5"),
        ("source_arch", b"resnet18", "found b'resnet18'"),
        ("strict", "no", "found 'no'"),
        ("keep_open", 1, "found 1"),
        ("min_loaded", "half", "'half'"),
        ("min_loaded", 1.5, "1.5"),
        ("min_loaded", float("nan"), "nan"),
        ("match", "shapes", "expected 'names' or 'structure'"),
        ("dtype", "int8", "no floating dtype"),
        ("source_arguments", {"a": 1}, "none is named"),
    ],
)
def test_a_value_of_another_kind(name, value, found):
    with pytest.raises(SurgeryError) as caught:
        request(**({"match": "structure"} if name == "hints" else {}), **{name: value})
    assert found in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("hints", ["a -> b", ["a -> b"], {"a": "b"}, (text for text in ["a -> b"])])
def test_hints_are_lines_however_they_are_given(hints):
    assert request(match="structure", hints=hints).hints == ("a -> b",)


def test_several_patterns_are_kept_for_the_plans_that_are_tried():
    assert request(fresh=(text for text in ["fc", "head"])).fresh == ("fc", "head")


SPECS = [TensorSpec("weight", (2, 2), "float32")]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(SPECS, iter(SPECS), id="iterator"),
        pytest.param(tuple(SPECS), {"weight": SPECS[0]}.values(), id="values"),
        pytest.param((spec for spec in SPECS), frozenset(SPECS), id="generator"),
    ],
)
def test_specs_come_in_any_row(source, target):
    assert plan_transfer(source, target).loaded_fraction == 1


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        pytest.param(torch.tensor(1.0), SPECS, "Tensor", id="tensor"),
        pytest.param(SPECS, torch.tensor(1.0), "Tensor", id="tensor-as-target"),
        pytest.param(io.BytesIO(b"x"), SPECS, "BytesIO", id="open-file"),
        pytest.param(SPECS, SPECS * 2, "'weight' more than once", id="a-name-twice"),
    ],
)
def test_what_holds_no_specs_is_not_read(source, target, named):
    with pytest.raises(SurgeryError, match=named):
        plan_transfer(source, target)


def test_what_would_say_nothing_is_refused():
    with pytest.raises(SurgeryError, match="build the model with them"):
        plan(request(num_classes=3))
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(SurgeryError, match="the source is a live model"):
        plan_transfer(linear, linear, match="structure", source_arch="resnet18")
    with pytest.raises(SurgeryError, match="resize"):
        plan_transfer(STATE, linear, resize=False)
