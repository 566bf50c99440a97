"""The safetensors header: what the library reads is read alike, every fault is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.formats.safetensors import DTYPES

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header: Any, values: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_every_dtype_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    value = (bits % 2 if dtype == "bool" else bits).view(getattr(torch, dtype)).reshape(4, -1)
    save_file({"a": value}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    read = checkpoint.tensor("a")
    assert checkpoint.specs[0].dtype == dtype
    assert checkpoint.specs[0].nbytes == 256
    assert torch.equal(read.view(torch.uint8), value.view(torch.uint8))


def test_a_boolean_that_is_neither_0_nor_1_keeps_its_byte(tmp_path: Path) -> None:
    entry = {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}
    (tmp_path / "a.safetensors").write_bytes(file_of({"a": entry}, b"\x00\x01\x07"))
    read = open_checkpoint(tmp_path / "a.safetensors").tensor("a")
    assert read.view(torch.uint8).tolist() == [0, 1, 7]


def test_tied_names_follow_the_convention_of_save_model(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    save_model(model, tmp_path / "tied.safetensors", metadata={"note": "mine"})
    checkpoint = open_checkpoint(tmp_path / "tied.safetensors")
    assert checkpoint.ties == (("a.weight", "b.weight"),)
    assert checkpoint.metadata == {"note": "mine"}
    state = checkpoint.state_dict()
    assert state["a.weight"].data_ptr() == state["b.weight"].data_ptr()
    model.load_state_dict(state)


@pytest.mark.parametrize(
    ("names", "metadata"),
    [
        pytest.param(["fc.weight"], {"best_layer": "fc.weight"}, id="best-layer"),
        pytest.param(["fc.weight"], {"training.best": "fc.weight"}, id="dotted"),
        pytest.param(["pt"], {"format": "pt"}, id="a-tensor-called-pt"),
    ],
)
def test_a_callers_text_is_no_alias(
    names: list[str], metadata: dict[str, str], tmp_path: Path
) -> None:
    state = {name: torch.ones(1) for name in names}
    save_file(state, tmp_path / "a.safetensors", metadata=metadata)
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert [spec.name for spec in checkpoint.specs] == names
    assert checkpoint.metadata == metadata


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [
        pytest.param("lm_head.weight", "wte.weight", id="another-module"),
        pytest.param("fc.alias", "fc.weight", id="another-name-in-a-module"),
    ],
)
def test_what_a_parameter_could_be_called_is_an_alias(
    dropped: str, kept: str, tmp_path: Path
) -> None:
    save_file({kept: torch.ones(1)}, tmp_path / "a.safetensors", metadata={dropped: kept})
    assert open_checkpoint(tmp_path / "a.safetensors").ties == ((kept, dropped),)


@pytest.mark.parametrize(
    ("header", "values"),
    [
        pytest.param({}, b"", id="no-tensor"),
        pytest.param({"__metadata__": {"a": "b"}}, b"", id="metadata-alone"),
        pytest.param({"a": {**A, "shape": [2, 1]}}, bytes(8), id="plain"),
        pytest.param({"a": {**A, "shape": []}, "b": A}, bytes(8), id="scalar-overlap"),
        pytest.param({"": A}, bytes(8), id="no-name"),
        pytest.param({"a": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}, b"", id="0"),
        pytest.param(b'{"a":1}', b"", id="number-for-entry"),
        pytest.param({"a": {**A, "shape": [-2]}}, bytes(8), id="negative"),
        pytest.param({"a": {**A, "shape": [2.0]}}, bytes(8), id="float"),
        pytest.param({"a": {**A, "dtype": "F33"}}, bytes(8), id="unknown-dtype"),
        pytest.param({"a": {**A, "shape": [3]}}, bytes(8), id="mismatch"),
        pytest.param({"a": A}, bytes(7), id="short"),
        pytest.param({"a": A}, bytes(9), id="trailing"),
        pytest.param({"a": {**A, "data_offsets": [4, 12]}}, bytes(12), id="hole"),
        pytest.param({"__metadata__": A, "a": A}, bytes(8), id="tensor-called-metadata"),
        pytest.param(b"[]", b"", id="array"),
    ],
)
def test_accepts_and_refuses_what_the_library_does(
    header: Any, values: bytes, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(header, values))
    try:
        expected = load_file(path)
    except SafetensorError:
        assert "safetensors header" in refusal(path)
    else:
        state = open_checkpoint(path).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"\x02\x00\x00", "expected 8 bytes of length, have 3", id="no-length"),
        pytest.param((1 << 40).to_bytes(8, "little") + b"{}", "over the limit", id="over-limit"),
        pytest.param((99).to_bytes(8, "little") + b"{}", "expected 107 bytes, have 10", id="cut"),
        pytest.param(file_of(b'{"a\xff":1}'), "not UTF-8 at byte 3", id="not-utf-8"),
        pytest.param(file_of(b'{"a":'), "not JSON", id="not-json"),
        pytest.param(file_of(b"[1, 2]"), "expected a JSON object", id="array"),
        pytest.param(file_of(b'{"a":' + b"[" * 100_000), "nested too deep", id="brackets"),
        pytest.param(file_of(b'{"a":' + b'{"a":' * 100_000), "nested too deep", id="braces"),
        pytest.param(
            file_of(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "dtype occurs twice", id="twice"
        ),
        pytest.param(file_of(b'{"\\ud800":1}'), "surrogates not allowed", id="lone-surrogate"),
        pytest.param(file_of(b'{"a":NaN}'), "NaN is not a whole number", id="nan"),
        pytest.param(file_of({"a": {**A, "shape": [2.5]}}), "2.5 is not a whole", id="float"),
        pytest.param(file_of({"a": {**A, "shape": [True]}}), "whole numbers from 0", id="bool"),
        pytest.param(file_of({"a": {**A, "shape": [-1]}}), "whole numbers from 0", id="negative"),
        pytest.param(file_of({"a": {**A, "shape": [1 << 62, 4]}}), "larger than", id="overflow"),
        pytest.param(file_of({"a": {**A, "shape": [1] * 1000}}), "larger than", id="dimensions"),
        pytest.param(file_of({"a": {**A, "data_offsets": [8, 0]}}), "begin and an end", id="back"),
        pytest.param(file_of({"a": {**A, "dtype": "Q4"}}), "unknown dtype Q4", id="dtype"),
        pytest.param(file_of({"a": {**A, "shape": [3]}}), "expected 12 bytes for F32", id="size"),
        pytest.param(file_of({"a": {**A, "more": 1}}), "expected dtype, shape and", id="extra-key"),
        pytest.param(file_of({"a": A}, bytes(5)), "expected 8 bytes of values, have 5", id="short"),
        pytest.param(file_of({"a": A}, bytes(9)), "1 bytes after the last tensor", id="trailing"),
        pytest.param(
            file_of({"a": {**A, "data_offsets": [2, 10]}}, bytes(10)), "2 unused bytes", id="hole"
        ),
        pytest.param(
            file_of({"a": A, "b": {**A, "data_offsets": [4, 12]}}, bytes(12)),
            "tensor b overlaps",
            id="overlap",
        ),
        pytest.param(
            file_of({"__metadata__": {"a": 1}}), "values that are not text", id="metadata"
        ),
        pytest.param(
            file_of({"__metadata__": {"surgery.versions": "["}}), "is not JSON", id="versions"
        ),
    ],
)
def test_faults_are_named(
    data: bytes, problem: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    assert problem in refusal(path)


def test_a_dtype_that_torch_has_not_is_that_tensors_problem_alone(tmp_path: Path) -> None:
    six = {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [8, 11]}
    (tmp_path / "a.safetensors").write_bytes(file_of({"a": A, "six": six}, bytes(11)))
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.unreadable == (("six", "of a dtype that torch has not (F6_E2M3)"),)
    assert list(checkpoint.state_dict()) == ["a"]
