import json
from functools import partial

import pytest
import torch
from tiny_models import TiedLanguageModel

import surgery
from surgery.networks import survey as surveying
from surgery.networks.architectures import find_architecture
from surgery.networks.building import build

LABELS = ("timm:resnet18", "timm:resnet18d", "timm:test_vit", "torchvision:resnet18")


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory):
    """The libraries have but a few architectures here: all of them take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGERY_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(surveying, "list_architectures", lambda: LABELS)
        yield


@pytest.fixture
def run(surgery_command):
    return partial(surgery_command, "identify")


def state(name, classes=None, prefix=""):
    model = build(find_architecture(name), num_classes=classes)
    return {prefix + key: value for key, value in model.state_dict().items()}


def test_a_wrapped_file_with_another_head(run, tmp_path):
    torch.save(state("torchvision:resnet18", 7, "_orig_mod.module."), tmp_path / "x.pt")
    first, again = run("x.pt"), run("x.pt")
    assert first.stderr == (
        "building 4 architectures once, without values: this takes minutes; what is done is "
        "remembered, also after Ctrl-C\n"
    )
    assert again.stderr == ""
    assert again.stdout == first.stdout
    assert first.exit_code == 0
    assert first.stdout.splitlines()[:2] == [
        "x.pt (torch zip)",
        "timm:resnet18 (and 1 more that are the same): every tensor, with another head; "
        "102 tensors compared with 4 architectures",
    ]


def test_json(run, tmp_path):
    surgery.save(
        build(find_architecture("timm:test_vit"), num_classes=0), tmp_path / "v.safetensors"
    )
    result = run("v.safetensors", "--json", "--most", "1")
    shown = json.loads(result.stdout)
    assert shown["path"] == "v.safetensors"
    assert shown["fits"] is True
    (best,) = shown["candidates"]
    assert best["architectures"] == ["timm:test_vit"]
    assert (best["share"], best["head"], best["differing"]) == (1, "missing", [])


def test_a_training_file_with_an_average(run, tmp_path):
    model = state("timm:resnet18d", prefix="module.")
    container = {
        "state_dict": model,
        "state_dict_ema": {name: value.clone() for name, value in model.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "epoch": 3,
    }
    torch.save(container, tmp_path / "run.pth.tar")
    refused = run("run.pth.tar")
    assert refused.exit_code == 2
    assert "state_dict_ema" in refused.stderr
    result = run("run.pth.tar", "--key", "state_dict_ema")
    assert result.exit_code == 0
    assert "timm:resnet18d: every tensor; " in result.stdout


def test_nothing_fits(run, tmp_path):
    surgery.save(TiedLanguageModel(), tmp_path / "lm.pt")
    result = run("lm.pt")
    assert result.exit_code == 1
    assert "nothing known fits: " in result.stdout
    shown = json.loads(run("lm.pt", "--json").stdout)
    assert shown["fits"] is False


def test_an_unreadable_file_builds_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(surveying, "_build", None)
    (tmp_path / "x.pt").write_text("<html>")
    result = run("x.pt")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: x.pt: ")
