"""What ``surgery transfer`` refuses, and that the options which it prints do what they say."""

import json
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from tiny_models import TinyNet, randomise
from torch import nn

import surgery

SUPPORT = Path(__file__).parent.parent / "support" / "tiny_models.py"
TINY = f"{SUPPORT}:TinyNet"

FACTORIES = """
from torch import nn
import torchvision

def grey():
    model = torchvision.models.resnet18()
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model

def words():
    return nn.ModuleDict({"wte": nn.Embedding(60, 8), "ln": nn.LayerNorm(8)})
"""

#: What was saved -> the words of its new architecture, and what loads or accepts the rest.
PASTED = {
    "deeper": (
        lambda: torchvision.models.resnet50(),
        ("torchvision:resnet101",),
        {"--fresh": "layer3.[6-9], layer3.1[0-9], layer3.2[0-2]"},
    ),
    "larger-pictures": (
        lambda: timm.create_model("vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224", "--arg", "img_size=384"),
        {"--resize": "pos_embed", "--fresh": "pos_embed"},
    ),
    "one-channel": (
        lambda: torchvision.models.resnet18(),
        ("factories.py:grey",),
        {"--resize": "conv1", "--fresh": "conv1"},
    ),
    "more-words": (
        lambda: nn.ModuleDict({"wte": nn.Embedding(50, 8), "ln": nn.LayerNorm(8)}),
        ("factories.py:words",),
        {"--resize": "wte", "--fresh": "wte"},
    ),
}


def pasted(text, option):
    """An option and its value as a shell reads them out of what was printed."""
    (line,) = (line for line in text.splitlines() if f"{option} " in line)
    return shlex.split(line[line.index(f"{option} ") :])[:2]


def states(path):
    return json.loads(surgery.open_checkpoint(path).metadata["surgery.status"])


@pytest.mark.parametrize("case", PASTED)
def test_the_option_that_is_printed_works(surgery_command, tmp_path, case):
    make, arch, options = PASTED[case]
    torch.save(make().state_dict(), tmp_path / "old.pt")
    (tmp_path / "factories.py").write_text(FACTORIES)
    words = ("transfer", "old.pt", *arch, "-o", "new.safetensors")
    refused = surgery_command(*words)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert not (tmp_path / "new.safetensors").exists()
    for option, value in options.items():
        given = pasted(refused.stderr, option)
        assert given == [option, value]
        done = surgery_command(*words, *given, "--force")
        assert done.exit_code == 0, done.stderr
        changed = {"--resize": "resized", "--fresh": "fresh"}[option]
        assert changed in states("new.safetensors").values()
    share = pasted(refused.stderr, "--min-loaded")
    assert surgery_command(*words, *share, "--dry-run").exit_code == 0


def test_a_dry_run_shows_the_plan_and_is_refused_alike(surgery_command, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "old.pt")
    (tmp_path / "factories.py").write_text(FACTORIES)
    words = ("transfer", "old.pt", "factories.py:grey")
    planned = surgery_command(*words, "--dry-run")
    assert planned.exit_code == 1
    assert "would be loaded" in planned.stdout
    assert planned.stderr == surgery_command(*words).stderr
    error = json.loads(surgery_command(*words, "--dry-run", "--json").stdout)["error"]
    assert error["kind"] == "TransferRefused"
    assert any("--resize conv1" in line for line in error["details"])


@pytest.fixture
def tiny(tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "tiny.safetensors")
    return ("transfer", "tiny.safetensors", TINY, "-o", "new.safetensors")


def test_another_dtype(surgery_command, tmp_path, tiny):
    done = surgery_command(*tiny, "--dtype", "bfloat16")
    assert done.exit_code == 0, done.stderr
    assert "float32 -> bfloat16" in done.stdout
    written = safetensors.torch.load_file(tmp_path / "new.safetensors")
    stem = written["stem.weight"]
    assert torch.equal(stem, randomise(TinyNet(7)).stem.weight.bfloat16())
    assert written["fc.weight"].dtype == torch.bfloat16  # what is fresh, too
    assert written["bn.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--fresh", "fcc"], "did you mean fc", id="fresh-no-tensor"),
        pytest.param(["--fresh", "blocks.[0-9"], "blocks.[0-9", id="fresh-no-pattern"),
        pytest.param(["--dtype", "bfloat61"], "did you mean bfloat16?", id="dtype-unknown"),
        pytest.param(["--dtype", "int8"], "int8", id="dtype-integer"),
        pytest.param(["--resize", "fcc"], "did you mean fc", id="resize-no-tensor"),
        pytest.param(["--resize", "stem"], "stem", id="resize-that-fits"),
        pytest.param(["--resize", "fc=class-row"], "did you mean class-rows?", id="resize-method"),
        pytest.param(["--resize", "fc=class-rows:0"], "KEY=VALUE", id="resize-setting"),
        pytest.param(["--resize", ""], "expected auto", id="resize-empty"),
    ],
)
def test_options_that_say_nothing(surgery_command, tmp_path, tiny, words, message):
    result = surgery_command(*tiny, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1] + result.stderr.splitlines()[0]
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("values", "resized"),
    [
        pytest.param(["auto"], {"conv1.weight"}, id="auto"),
        pytest.param(["conv1"], {"conv1.weight"}, id="pattern"),
        pytest.param(["input-channels"], {"conv1.weight"}, id="method"),
        pytest.param(["conv*=input-channels"], {"conv1.weight"}, id="pattern-and-method"),
        pytest.param(
            ["conv1", "fc=class-rows:0=207,1=7"],
            {"conv1.weight", "fc.weight", "fc.bias"},
            id="two",
        ),
    ],
)
def test_every_form_of_resize(surgery_command, tmp_path, values, resized):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "old.pt")
    words = ("timm:resnet18", "--arg", "in_chans=1", "--num-classes", 3, "--dry-run", "--json")
    options = [word for value in values for word in ("--resize", value)]
    done = surgery_command("transfer", "old.pt", *words, *options)
    assert done.exit_code == 0, done.stdout
    steps = json.loads(done.stdout)["plan"]["steps"]
    assert {step["target"][0] for step in steps if step["state"] == "resized"} == resized
