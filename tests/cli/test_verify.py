"""``surgery transfer --verify``: exit codes, and files that are not written."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from surgery_cli.main import surgery as command
from tiny_models import TinyNet, randomise

import surgery

SUPPORT = Path(__file__).parent.parent / "support" / "tiny_models.py"
TINY = f"{SUPPORT}:TinyNet"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(command, [str(word) for word in words])


@pytest.fixture
def old(tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "old.pt")
    return tmp_path / "old.pt"


SEVEN = ("--source-arch", TINY, "--source-arg", "num_classes=7", "--verify")


def test_a_proof_that_holds_is_shown_and_the_file_written(run, old, tmp_path):
    result = run("transfer", old, TINY, *SEVEN, "-o", "new.safetensors")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{TINY} (old) and {TINY} (new) compute the same\nfeatures")
    assert "27 of 29 tensors" in result.stdout
    plain = run("transfer", old, TINY, "-o", "plain.safetensors")
    assert plain.stdout in result.stdout
    written = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("new", "plain")]
    assert written[0] == written[1]


def test_a_proof_that_fails_exits_1_and_writes_nothing(run, old, tmp_path):
    (tmp_path / "map.txt").write_text("bn.weight -> bn.bias\nbn.bias -> bn.weight\n")
    before = sorted(tmp_path.iterdir())
    result = run("transfer", old, TINY, *SEVEN, "--mapping", "map.txt", "-o", "new.safetensors")
    assert result.exit_code == 1
    assert "error: the proof failed: 2 tensors are in another's place; nothing" in result.stderr
    assert "bn.bias takes bn.weight, and acts as bn.bias" in result.stderr
    assert "acts as bn.bias" in result.stdout
    assert sorted(tmp_path.iterdir()) == before
    asked = run("transfer", old, TINY, *SEVEN, "--mapping", "map.txt", "--json")
    error = json.loads(asked.stdout)["error"]
    assert (asked.exit_code, error["kind"]) == (1, "ProofRefused")
    assert error["proof"]["holds"] is False
    assert run("transfer", old, TINY, *SEVEN, "--mapping", "map.txt", "--dry-run").exit_code == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_file_survives_a_failed_proof(run, old, tmp_path):
    (tmp_path / "new.pt").write_text("mine")
    (tmp_path / "map.txt").write_text("bn.weight -> bn.bias\nbn.bias -> bn.weight\n")
    words = ("--mapping", "map.txt", "-o", "new.pt", "--force")
    assert run("transfer", old, TINY, *SEVEN, *words).exit_code == 1
    assert (tmp_path / "new.pt").read_text() == "mine"


def test_json_has_the_proof(run, old):
    done = json.loads(run("transfer", old, TINY, *SEVEN, "--json", "-o", "new.pt").stdout)
    assert done["proof"]["holds"] is True
    assert done["output"] == "new.pt"
    planned = json.loads(run("transfer", old, TINY, *SEVEN, "--json", "--dry-run").stdout)
    assert planned["proof"] == done["proof"]


def test_two_libraries(run, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "old.pt")
    words = ("transfer", "old.pt", "timm:resnet18", "--verify", "--source-arch")
    assert run(*words, "torchvision:resnet18", "--input", "3x64x64").exit_code == 0
    other = run(*words, "torchvision:resnet50", "--dry-run")
    assert other.exit_code == 2
    assert "the source is no checkpoint of torchvision:resnet50" in other.stderr


def test_the_same_weights_with_another_padding(run, tmp_path):
    """As torchvision's efficientnet_v2_s and timm's tf_efficientnetv2_s, but small."""
    model = timm.create_model("test_efficientnet")
    torch.save(model.state_dict(), tmp_path / "old.pt")
    before = sorted(tmp_path.iterdir())
    words = ("transfer", "old.pt", "timm:test_efficientnet", "--arg", "pad_type=same")
    result = run(*words, "--source-arch", "timm:test_efficientnet", "--verify", "-o", "new.pt")
    assert result.exit_code == 1
    assert "error: the proof failed: weights agree, the networks do not; nothing" in result.stderr
    assert "padding is 1 in the source, 0 in the target" in result.stderr
    assert "padded before" in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_class_rows_are_no_part_of_the_claim(run, old):
    words = ("--arg", "num_classes=2", "--resize", "fc.*=class-rows:0=5,1=2", "-o", "new.pt")
    result = run("transfer", old, TINY, *SEVEN, *words)
    assert result.exit_code == 0, result.stderr
    assert "compute the same up to what is resized" in result.stdout
    assert "no part of the claim: fc.{weight,bias} (class-rows)" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--verify"], "name it with --source-arch", id="no-source"),
        pytest.param(["--source-arch", TINY], "is for --verify and for --match", id="no-verify"),
        pytest.param(
            ["--source-arg", "a=1"], "(--source-arch) names, and none is named", id="arg-alone"
        ),
        pytest.param(["--input", "3x8x8"], "--input is for --verify", id="input-alone"),
        pytest.param(
            ["--match", "structure", "--source-arch", TINY, "--input", "3x8x8"],
            "--input is for --verify",
            id="input-with-structure",
        ),
        pytest.param([*SEVEN, "--input", "3,8"], "expected sizes such as 3x224x224", id="shape"),
        pytest.param([*SEVEN, "--input", "5x8x8"], "no input was found", id="other-channels"),
        pytest.param(["--source-arch", "tinynet", "--verify"], "has an architecture", id="unknown"),
        pytest.param(["--source-arch", "like:old.pt", "--verify"], "cannot be built", id="like"),
    ],
)
def test_what_cannot_be_done_exits_2_and_writes_nothing(run, old, tmp_path, words, message):
    before = sorted(tmp_path.iterdir())
    result = run("transfer", old, TINY, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before
