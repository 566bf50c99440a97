import argparse
import json
from functools import partial

import pytest
import torch
from tiny_models import TinyNet, randomise

import surgery


@pytest.fixture
def run(surgery_command):
    return partial(surgery_command, "inspect")


@pytest.fixture
def damaged(tmp_path):
    """A file that torch loads without a word, one bit of ``blocks.2.w`` flipped."""
    state = {f"blocks.{i}.w": torch.full((4,), 1.5 + i) for i in range(4)}
    state["tied"] = state["blocks.2.w"]
    path = tmp_path / "damaged.pt"
    torch.save({"model": state, "epoch": 3}, path)
    data = bytearray(path.read_bytes())
    data[data.index(state["tied"].numpy().tobytes())] ^= 4
    path.write_bytes(data)
    assert torch.load(path)["model"]["tied"][0] != 3.5
    return path


def rows(result):
    return [line.split() for line in result.stdout.splitlines()]


def test_a_state_dict(run, tmp_path):
    surgery.save(TinyNet(), tmp_path / "net.pt", metadata={"note": "mine"})
    result = run("net.pt")
    assert result.exit_code == 0
    assert result.stdout.startswith("net.pt: torch zip, ")
    assert "blocks.{0..2}.0.{weight,bias}" in result.stdout
    assert ["note", "mine"] in rows(result)


def test_sizes_dtypes_and_ties(run, tmp_path):
    value = torch.zeros(256, 4)
    state = {"emb.weight": value, "head.weight": value, "steps": torch.tensor(3)}
    torch.save(state, tmp_path / "x.pt")
    result = run("x.pt")
    assert "tensors: 3 tensors, 1,025 elements, 4.0 KiB, 2 float32, 1 int64\n" in result.stdout
    assert ["emb.weight", "1", "(256,", "4)", "float32", "4.0", "KiB"] in rows(result)
    assert ["emb.weight", "=", "head.weight"] in rows(result)
    shown = json.loads(run("x.pt", "--json").stdout)
    (found,) = shown["state_dicts"]
    assert found["ties"] == [["emb.weight", "head.weight"]]
    assert found["tensors"][0] == {
        "name": "emb.weight",
        "shape": [256, 4],
        "dtype": "float32",
        "elements": 1024,
        "bytes": 4096,
    }
    assert shown["bytes"] == (tmp_path / "x.pt").stat().st_size
    assert "verification" not in shown


def test_several_state_dicts_are_all_shown(run, tmp_path):
    one, ema = TinyNet().state_dict(), TinyNet().state_dict()
    torch.save({"state_dict": one, "state_dict_ema": ema, "epoch": 3}, tmp_path / "x.pth")
    shown = json.loads(run("x.pth", "--json").stdout)
    assert [entry["key"] for entry in shown["state_dicts"]] == ["state_dict", "state_dict_ema"]
    assert shown["state_dicts"][0]["versions"]["bn"] == 2
    assert "epoch" in shown["others"]


def test_what_cannot_be_transferred_is_shown(run, tmp_path):
    torch.save({"a": torch.ones(2), "s": torch.eye(2).to_sparse(), "n": 3}, tmp_path / "x.pt")
    lines = [line.split(maxsplit=1) for line in run("x.pt").stdout.splitlines()]
    assert ["s", "a sparse tensor"] in lines
    assert ["n", "not a tensor"] in lines
    (shown,) = json.loads(run("x.pt", "--json").stdout)["state_dicts"]
    assert shown["unlisted"] == [["s", "a sparse tensor"], ["n", "not a tensor"]]


def test_what_was_not_imported_is_listed(run, tmp_path):
    value = {"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}
    torch.save(value, tmp_path / "x.pt")
    result = run("x.pt")
    assert ["argparse.Namespace"] in rows(result)
    assert ["args", "argparse.Namespace", "(opaque)"] in rows(result)
    assert json.loads(run("x.pt", "--json").stdout)["opaque"] == ["argparse.Namespace"]


def test_a_number_of_any_length(run, tmp_path):
    torch.save({f"a.{'9' * 5000}.w": torch.ones(2)}, tmp_path / "x.pt")
    assert run("x.pt").exit_code == 0


@pytest.mark.parametrize("words", [[], ["--verify"]])
def test_a_strangers_names_cannot_drive_the_terminal(run, tmp_path, words):
    value = torch.tensor([float("nan")])
    torch.save({"\x1b[31mred\x07": value, "\x1b[1mtied": value}, tmp_path / "x.pt")
    result = run("x.pt", *words)
    assert "\x1b" not in result.stdout
    assert r"\x1b[31mred\x07" in result.stdout


def test_what_is_no_checkpoint(run, tmp_path):
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html></html>")
    result = run("page.pt")
    assert result.exit_code == 2
    assert "HTML" in result.stderr


class TestVerify:
    def test_a_sound_file(self, run, tmp_path):
        surgery.save(randomise(TinyNet()), tmp_path / "net.pt")
        result = run("net.pt", "--verify")
        assert result.exit_code == 0
        assert "every checksum agrees; 0 NaN and 0 Inf" in result.stdout.splitlines()[1]
        assert "amiss" not in result.stdout

    def test_a_format_without_checksums_says_so(self, run, tmp_path):
        surgery.save(TinyNet(), tmp_path / "net.safetensors")
        result = run("net.safetensors", "--verify")
        assert result.exit_code == 0
        assert "records no checksums, so damage would not show" in result.stdout

    def test_damage_exits_1_and_names_the_tensor(self, run, damaged):
        result = run(damaged, "--verify")
        assert result.exit_code == 1
        assert "verified 4 tensors, 64 B: 1 tensor DAMAGED" in result.stdout.splitlines()[1]
        assert ["blocks.2.w", "=", "tied", "1", "damaged", "0", "0", "4"] in rows(result)
        assert run(damaged).exit_code == 0  # nobody asked

    def test_damage_as_json(self, run, damaged):
        result = run(damaged, "--verify", "--json")
        assert result.exit_code == 1
        found = json.loads(result.stdout)["verification"]
        assert found["damaged"] is True
        assert found["findings"] == [
            {
                "tensors": [
                    {"key": "model", "name": "blocks.2.w"},
                    {"key": "model", "name": "tied"},
                ],
                "elements": 4,
                "damaged": True,
                "nan": 0,
                "inf": 0,
            }
        ]

    def test_nan_and_inf_are_counted_by_layer_and_exit_0(self, run, tmp_path):
        state = {f"blocks.{i}.w": torch.ones(5) for i in range(6)}
        for i in range(4):
            state[f"blocks.{i}.w"][:2] = torch.tensor([float("nan"), float("inf")])
        torch.save({"model": state, "ema": {"w": torch.tensor([float("nan")])}}, tmp_path / "x.pt")
        result = run("x.pt", "--verify")
        assert result.exit_code == 0
        assert "every checksum agrees; 5 NaN and 4 Inf" in result.stdout
        assert ["model:", "blocks.{0..3}.w", "4", "4", "4", "20"] in rows(result)
        assert ["ema:", "w", "1", "1", "0", "1"] in rows(result)

    def test_damage_outside_the_tensors(self, run, tmp_path):
        moments = torch.full((5,), 3.25)
        value = {"model": {"w": torch.ones(2)}, "optimizer": {"state": {0: {"m": moments}}}}
        torch.save(value, tmp_path / "x.pt")
        data = bytearray((tmp_path / "x.pt").read_bytes())
        data[data.index(moments.numpy().tobytes())] ^= 1
        (tmp_path / "x.pt").write_bytes(data)
        result = run("x.pt", "--verify")
        assert result.exit_code == 1
        assert "DAMAGED, though in no tensor shown here" in result.stdout
        assert ["x/data/1"] in rows(result)

    def test_a_file_cut_short(self, run, tmp_path):
        surgery.save(TinyNet(), tmp_path / "net.safetensors")
        with (tmp_path / "net.safetensors").open("r+b") as file:
            file.truncate(5000)
        result = run("net.safetensors", "--verify")
        assert result.exit_code == 2
        assert "cut short" in result.stderr


def test_what_a_file_holds_instead_of_a_state_dict_is_told(run, tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    result = run("list.pt")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].split() == [".", "list", "of", "1"]
