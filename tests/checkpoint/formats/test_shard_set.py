"""Sharded checkpoints: read as one, and nothing outside the index's folder is ever opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint import open_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Tensors a and b in one.safetensors, c in two.safetensors; no index yet."""
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "one.safetensors")
    save_file({"c": torch.ones(4)}, tmp_path / "two.safetensors")
    return tmp_path


def write_index(folder: Path, weight_map: Any) -> Path:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / INDEX


GOOD = {"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"}


def test_shards_are_one_state_dict_in_the_order_of_the_index(shards: Path) -> None:
    checkpoint = open_checkpoint(write_index(shards, GOOD))
    assert checkpoint.format == "sharded safetensors"
    assert list(checkpoint.by_name) == ["c", "a", "b"]
    assert {name: len(value) for name, value in checkpoint.state_dict().items()} == {
        "c": 4,
        "a": 2,
        "b": 3,
    }


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        pytest.param("sharded", "sharded safetensors", id="safetensors"),
        pytest.param("sharded_bin", "sharded torch zip", id="bin"),
    ],
)
def test_a_folder_is_its_index(folder: str, kind: str, fixtures: Path) -> None:
    checkpoint = open_checkpoint(fixtures / folder)
    expected = open_checkpoint(fixtures / "zip.pt").state_dict()
    assert checkpoint.format == kind
    assert checkpoint.path.name.endswith(".index.json")
    assert all(torch.equal(checkpoint.tensor(name), value) for name, value in expected.items())


def test_a_tied_name_that_only_its_shard_knows_is_an_alias(shards: Path) -> None:
    save_file({"c": torch.ones(4)}, shards / "two.safetensors", metadata={"tied.c": "c"})
    checkpoint = open_checkpoint(write_index(shards, GOOD))
    assert checkpoint.ties == (("c", "tied.c"),)
    assert checkpoint.metadata == {}


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("../one.safetensors", id="parent"),
        pytest.param("sub/../../one.safetensors", id="parent-inside"),
        pytest.param("/etc/passwd", id="absolute"),
        pytest.param("C:/one.safetensors", id="drive"),
        pytest.param("sub\\one.safetensors", id="backslash"),
        pytest.param("//host/share/one.safetensors", id="share"),
        pytest.param("", id="empty"),
        pytest.param("a\0b", id="null"),
    ],
)
def test_paths_that_leave_the_folder_are_refused(
    file: str, shards: Path, refusal: Callable[..., str]
) -> None:
    assert "not a path below" in refusal(write_index(shards, {**GOOD, "a": file}))


@pytest.mark.parametrize(
    ("weight_map", "problem"),
    [
        pytest.param(
            {**GOOD, "a": "One.safetensors"}, "is missing; did you mean one.safetensors", id="file"
        ),
        pytest.param(
            {**GOOD, "d": "one.safetensors"},
            "d: in one.safetensors by the index, it is in none",
            id="missing",
        ),
        pytest.param(
            {**GOOD, "c": "one.safetensors"},
            "c: in one.safetensors by the index, it is in none",
            id="moved",
        ),
        pytest.param(
            {"c": "two.safetensors", "a": "one.safetensors"},
            "b: nowhere by the index, it is in one",
            id="extra",
        ),
        pytest.param([], "without a weight_map", id="list"),
        pytest.param({"a": 1}, "values are not file names", id="numbers"),
        pytest.param({"a": INDEX}, "an index, where a shard is expected", id="index-in-index"),
    ],
)
def test_disagreements(
    weight_map: Any, problem: str, shards: Path, refusal: Callable[..., str]
) -> None:
    assert problem in refusal(write_index(shards, weight_map))


def test_a_name_in_two_shards(shards: Path, refusal: Callable[..., str]) -> None:
    save_file({"c": torch.ones(4), "a": torch.ones(2)}, shards / "two.safetensors")
    assert "it is in two.safetensors, one.safetensors" in refusal(write_index(shards, GOOD))


def test_every_disagreement_is_told_at_once(shards: Path, refusal: Callable[..., str]) -> None:
    message = refusal(write_index(shards, {"a": "one.safetensors", "d": "one.safetensors"}))
    assert "d: in one.safetensors by the index" in message
    assert "b: nowhere by the index" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('{"weight_map": {"a": "x", "a": "y"}}', "the key a occurs twice", id="twice"),
        pytest.param('{"weight_map": ' + "[" * 100_000, "cannot be read", id="brackets"),
        pytest.param("{", "cannot be read", id="cut"),
        pytest.param('{"model_type": "vit"}', "without a weight_map", id="config"),
    ],
)
def test_text_that_is_no_index(
    text: str, problem: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / INDEX).write_text(text)
    assert problem in refusal(tmp_path / INDEX)
