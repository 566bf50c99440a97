import json
from functools import partial
from pathlib import Path

import pytest
import torch
from every_dtype import same

import surgery


@pytest.fixture
def run(surgery_command):
    return partial(surgery_command, "convert")


STATE = {"w": torch.tensor([1.0, 1e6]), "n": torch.tensor(3)}


@pytest.fixture
def old(tmp_path):
    return surgery.save(STATE, tmp_path / "old.pt")


def files(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_another_format(run, old, tmp_path):
    result = run(old, "new.safetensors")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"{old} (torch zip) -> new.safetensors"
    assert "wrote new.safetensors (" in result.stderr
    assert same(surgery.open_checkpoint("new.safetensors").state_dict(), STATE)


def test_json_is_one_object(run, old):
    done = json.loads(run(old, "new.safetensors", "--dtype", "float16", "--json").stdout)
    assert done["output"] == "new.safetensors"
    assert done["files"] == ["new.safetensors"]
    assert (done["tensors"], done["bytes"]) == (2, 12)
    assert done["casts"] == {"float32 -> float16": 1}
    assert done["overflowed"] == [["w", 1]]
    assert done["left_out"] == []


def test_shards(run, old, tmp_path):
    result = run(old, "new.safetensors", "--max-shard-size", "8B")
    assert result.exit_code == 0, result.stderr
    assert "wrote new.safetensors.index.json and 2 shards" in result.stderr
    assert same(surgery.open_checkpoint("new.safetensors.index.json").state_dict(), STATE)
    again = run(old, "new.safetensors", "--max-shard-size", "8B")
    assert again.exit_code == 2
    assert "new.safetensors.index.json exists already; --force replaces it" in again.stderr
    assert run("new.safetensors.index.json", "one.pt").exit_code == 0
    part = run("new-00001-of-00002.safetensors", "part.pt")
    assert part.exit_code == 0
    assert "note: new-00001-of-00002.safetensors is one shard of a set; new.saf" in part.stderr
    Path("part.pt").unlink()
    assert run(old, "new.safetensors", "--max-shard-size", "1MB", "--force").exit_code == 0
    assert files(tmp_path) == ["new.safetensors", "old.pt", "one.pt"]


def test_what_is_left_out_is_said(run, tmp_path):
    torch.save({"model": STATE, "epoch": 7}, tmp_path / "run.pt")
    result = run("run.pt", "new.safetensors")
    assert result.exit_code == 0
    assert "epoch" in result.stdout
    assert "int 7" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["new.onnx"], 2, "no format has the suffix .onnx", id="suffix"),
        pytest.param(["no/new.pt"], 2, "no folder ", id="folder"),
        pytest.param(
            ["mine.pt"],
            2,
            "mine.pt exists already; --force replaces it; or choose another OUT",
            id="exists",
        ),
        pytest.param(["new.pt", "--dtype", "half"], 2, "dtype 'half' is not known", id="dtype"),
        pytest.param(["new.pt", "--dtype", "flaot16"], 2, "did you mean float16?", id="nearest"),
        pytest.param(["new.pt", "--key", "ema"], 2, "no state dict has the key ema", id="key"),
        pytest.param(
            ["new.pt", "--dtype", "float16", "--strict"], 1, "casts break 1 values", id="strict"
        ),
        pytest.param(
            ["new.safetensors", "--max-shard-size", "10"], 2, "add a unit, as in 10GB", id="unit"
        ),
        pytest.param(["new.pt", "--max-shard-size", "1GB"], 2, "only .safetensors is", id="shards"),
        pytest.param(
            ["new.safetensors", "--max-shard-size", "big"], 2, "'big' is no size", id="size"
        ),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_refusals(as_json, words, code, message, run, old, tmp_path):
    (tmp_path / "mine.pt").write_text("mine")
    before = old.read_bytes()
    result = run(old, *words, *(["--json"] if as_json else []))
    assert result.exit_code == code
    text = json.loads(result.stdout)["error"]["message"] if as_json else result.stderr
    assert message in text
    assert "Traceback" not in result.stderr
    assert files(tmp_path) == ["mine.pt", "old.pt"]
    assert (old.read_bytes(), (tmp_path / "mine.pt").read_text()) == (before, "mine")


def test_a_source_that_is_not_there(run, old):
    result = run("odl.pt", "new.pt")
    assert result.exit_code == 2
    assert "odl.pt: no such file; did you mean old.pt?" in result.stderr


def test_in_place_wants_force(run, old, tmp_path):
    assert run(old, old).exit_code == 2
    assert run(old, old, "--force", "--dtype", "float64").exit_code == 0
    assert surgery.open_checkpoint(old).tensor("w").dtype == torch.float64
    assert files(tmp_path) == ["old.pt"]


def test_names_cannot_drive_a_terminal(run, tmp_path):
    torch.save({"model": STATE, "\x1b[31mred": 7}, tmp_path / "run.pt")
    result = run("run.pt", "new.safetensors")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout + result.stderr
