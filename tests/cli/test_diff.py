import json
from functools import partial

import pytest
import torch
from tiny_models import TinyNet, randomise

import surgery


@pytest.fixture
def run(surgery_command):
    return partial(surgery_command, "diff")


def test_the_same_in_two_formats(run, tmp_path):
    model = randomise(TinyNet())
    surgery.save(model, tmp_path / "a.pt")
    surgery.save(model, tmp_path / "b.safetensors")
    result = run("a.pt", "b.safetensors")
    assert result.exit_code == 0
    assert result.stdout == (
        "a.pt and b.safetensors: 29 tensors in both, 29 equal, 0 with other values\n"
    )
    found = json.loads(run("a.pt", "b.safetensors", "--json").stdout)
    assert found["same"] is True
    assert len(found["equal"]) == 29


def test_differences_exit_1(run, tmp_path):
    surgery.save(randomise(TinyNet(7), 1), tmp_path / "a.pt")
    surgery.save(randomise(TinyNet(5), 1), tmp_path / "b.pt")
    result = run("a.pt", "b.pt")
    assert result.exit_code == 1
    assert "another shape or dtype" in result.stdout
    found = json.loads(run("a.pt", "b.pt", "--json").stdout)
    assert found["same"] is False
    assert [pair[0][0] for pair in found["respecified"]] == ["fc.weight", "fc.bias"]


def test_layers_in_the_table_and_every_tensor_in_json(run, tmp_path):
    one = {f"blocks.{i}.w": torch.ones(3) for i in range(9)} | {"gone": torch.ones(1)}
    other = {f"blocks.{i}.w": torch.ones(3) + i / 8 for i in range(9)}
    torch.save(one, tmp_path / "a.pt")
    torch.save(other, tmp_path / "b.pt")
    result = run("a.pt", "b.pt")
    assert result.stdout.startswith(
        "a.pt and b.pt: 9 tensors in both, 1 equal, 8 with other values; 1 only in a.pt\n"
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["blocks.{1..8}.w", "8", "24", "24", "1", "0.5", "blocks.8"] in lines
    values = json.loads(run("a.pt", "b.pt", "--json").stdout)["values"]
    assert [value["name"] for value in values] == [f"blocks.{i}.w" for i in range(1, 9)]
    assert values[7] == {
        "name": "blocks.8.w",
        "dtype": "float32",
        "elements": 3,
        "total": 3,
        "largest": 1.0,
        "relative": 0.5,
    }


class TestVerify:
    @pytest.fixture(autouse=True)
    def files(self, tmp_path):
        for name, fill in (("a", 1.5), ("b", 2.5)):
            torch.save({"w": torch.full((9,), fill), "v": torch.ones(1)}, tmp_path / f"{name}.pt")
        (tmp_path / "same.pt").write_bytes((tmp_path / "a.pt").read_bytes())

    def damage(self, path, fill):
        data = bytearray(path.read_bytes())
        data[data.index(torch.full((9,), fill).numpy().tobytes())] ^= 8
        path.write_bytes(data)

    def test_sound_files_are_compared(self, run):
        assert run("a.pt", "same.pt", "--verify").exit_code == 0
        assert "1 equal, 1 with other values" in run("a.pt", "b.pt", "--verify").stdout

    def test_damage_is_named_in_both_before_anything_is_compared(self, run, tmp_path):
        self.damage(tmp_path / "a.pt", 1.5)
        self.damage(tmp_path / "b.pt", 2.5)
        result = run("a.pt", "b.pt", "--verify")
        assert result.exit_code == 1
        assert result.stdout == ""
        first, second = result.stderr.splitlines()
        assert first.startswith("error: a.pt: the bytes of 1 tensor (w) have changed")
        assert second.startswith("  b.pt: the bytes of 1 tensor (w) have changed")

    def test_damage_as_json(self, run, tmp_path):
        self.damage(tmp_path / "a.pt", 1.5)
        result = run("a.pt", "same.pt", "--verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["error"]["kind"] == "DamageRefused"

    def test_only_the_chosen_state_dict_has_to_be_sound(self, run, tmp_path):
        ema = {"w": torch.full((9,), 7.5)}
        torch.save({"model": {"w": torch.full((9,), 1.5)}, "ema": ema}, tmp_path / "two.pt")
        self.damage(tmp_path / "two.pt", 7.5)
        torch.save({"w": torch.full((9,), 1.5)}, tmp_path / "flat.pt")
        assert run("two.pt", "flat.pt", "--key", "model", "--verify").exit_code == 0
        assert run("two.pt", "flat.pt", "--key", "ema", "--verify").exit_code == 1


def test_dtypes_are_folded_by_layer_and_shapes_are_not(run, tmp_path):
    one = {f"blocks.{i}.w": torch.ones(3) for i in range(9)} | {"fc.w": torch.ones(5)}
    other = {f"blocks.{i}.w": torch.ones(3).half() for i in range(9)} | {"fc.w": torch.ones(6)}
    torch.save(one, tmp_path / "a.pt")
    torch.save(other, tmp_path / "b.pt")
    rows = [line.split() for line in run("a.pt", "b.pt").stdout.splitlines()]
    assert rows[3] == ["tensor", "count", "a.pt", "b.pt"]
    assert rows[4:] == [
        ["fc.w", "1", "(5)", "float32", "(6)", "float32"],
        ["blocks.{0..8}.w", "9", "(3)", "float32", "(3)", "float16"],
    ]


def test_verify_says_where_there_was_nothing_to_verify(run, tmp_path):
    surgery.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    odd = torch.tensor([float("nan"), float("inf"), -float("inf")])
    surgery.save({"w": odd}, tmp_path / "b.safetensors")
    result = run("a.pt", "b.safetensors", "--verify")
    assert result.stderr.splitlines() == [
        "a.pt: every checksum agrees; 0 NaN and 0 Inf",
        "b.safetensors: the file records no checksums, so damage would not show; 1 NaN and 2 Inf",
    ]
    told = json.loads(run("a.pt", "b.safetensors", "--verify", "--json").stdout)["verification"]
    assert [each["nan"] for each in told] == [0, 1]
    assert run("a.pt", "a.pt").stderr == ""
    assert json.loads(run("a.pt", "a.pt", "--verify", "--json").stdout)["same"] is True


NETWORKS = """
from torch import nn

def small():
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))

def other():
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8, eps=1e-3), nn.GELU(), nn.Linear(8, 3))

def different():
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
"""


def test_two_architectures(run, tmp_path):
    (tmp_path / "mine.py").write_text(NETWORKS)
    result = run("mine.py:small", "mine.py:small")
    assert result.exit_code == 0
    assert result.stdout.startswith("one network: ")
    found = json.loads(run("mine.py:small", "mine.py:small", "--json").stdout)
    assert found["same"] is True
    assert found["mapping"]["3.weight"]["source"] == "3.weight"


def test_two_architectures_that_differ_in_a_number_or_in_an_operator(run, tmp_path):
    (tmp_path / "mine.py").write_text(NETWORKS)
    result = run("mine.py:small", "mine.py:other")
    assert result.exit_code == 1
    assert ["native_layer_norm", "1e-05", "0.001", "1"] in [
        line.split()[:4] for line in result.stdout.splitlines()
    ]
    result = run("mine.py:small", "mine.py:different")
    assert result.exit_code == 1
    assert "relu" in result.stdout
    assert "gelu" in result.stdout


def test_a_file_and_an_architecture_are_not_compared(run, tmp_path):
    surgery.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    for ends in (("a.pt", "timm:resnet18"), ("timm:resnet18", "a.pt")):
        result = run(*ends)
        assert result.exit_code == 2
        assert "surgery identify a.pt" in result.stderr
    result = run("timm:resnet18", "timm:resnet18", "--key", "model")
    assert result.exit_code == 2
    assert "--key" in result.stderr
