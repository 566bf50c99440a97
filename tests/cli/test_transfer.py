import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from attention_twins import Fused, Split
from click.testing import CliRunner
from surgery_cli.main import surgery as command
from tiny_models import TinyNet, randomise

import surgery

SUPPORT = Path(__file__).parent.parent / "support" / "tiny_models.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(command, [str(word) for word in words])


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(randomise(torchvision.models.resnet18(num_classes=1000)).state_dict(), path)
    return path


@pytest.fixture
def tiny(tmp_path):
    """A seven-class TinyNet, and the architecture that five classes are wanted of."""
    surgery.save(randomise(TinyNet(7)), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors", f"{SUPPORT}:TinyNet"


def test_the_main_job(run, old, tmp_path):
    result = run("transfer", old, "resnet18", "--num-classes", 10)
    assert result.exit_code == 0
    first, share, *_ = result.stdout.splitlines()
    assert first == f"{old} (torch zip) -> timm:resnet18 (also in torchvision)"
    assert share.startswith("120 of 122 tensors and 99.95% of the parameters loaded; 2 stay fresh")
    assert "wrote resnet18.safetensors" in result.stderr

    written = safetensors.torch.load_file(tmp_path / "resnet18.safetensors")
    source = torch.load(old, weights_only=True)
    model = timm.create_model("resnet18", num_classes=10)
    model.load_state_dict(written, strict=True)
    for name, value in model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, source[name]), name
    assert float(written["fc.weight"].std()) > 0


def test_fresh_values_follow_the_seed(run, tiny):
    old, arch = tiny
    heads = []
    for at, seed in enumerate((0, 0, 1)):
        assert run("transfer", old, arch, "--seed", seed, "-o", f"{at}.safetensors").exit_code == 0
        heads.append(safetensors.torch.load_file(f"{at}.safetensors")["fc.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_keeping_open_what_is_decided_is_said_to_change_nothing(run, tiny):
    result = run("transfer", *tiny, "--keep-open", "--dry-run", "--json")
    assert result.stderr == "note: --keep-open changes nothing, since no tensor is left open\n"
    assert "plan" in json.loads(result.stdout)
    assert not run("transfer", *tiny, "--dry-run", "--json").stderr


def test_dry_run_shows_the_plan_and_writes_nothing(run, tiny, tmp_path):
    old, arch = tiny
    before = sorted(tmp_path.iterdir())
    result = run("transfer", old, arch, "--dry-run")
    assert result.exit_code == 0
    assert "would be loaded" in result.stdout
    assert "fc.weight      1  (5, 8)  shape differs: source (7, 8), target (5, 8)" in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_json_is_one_object(run, tiny):
    old, arch = tiny
    done = json.loads(run("transfer", old, arch, "--json").stdout)
    assert done["output"] == "TinyNet.safetensors"
    assert done["fresh"] == ["fc.weight", "fc.bias"]
    assert len(done["loaded"]) == 27
    planned = json.loads(run("transfer", old, arch, "--json", "--dry-run").stdout)
    assert planned["plan"] == done["plan"]


def test_json_names_every_file(run, tiny):
    options = ("-o", "new.safetensors", "--max-shard-size", "4KB", "--json")
    done = json.loads(run("transfer", *tiny, *options).stdout)
    assert done["output"] == done["files"][-1] == "new.safetensors.index.json"
    assert len(done["files"]) > 2
    assert all(Path(file).is_file() for file in done["files"])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_file_records_every_tensors_status(run, tiny, suffix):
    old, arch = tiny
    assert run("transfer", old, arch, "-o", f"new.{suffix}").exit_code == 0
    checkpoint = surgery.open_checkpoint(f"new.{suffix}")
    status = json.loads(checkpoint.metadata["surgery.status"])
    assert status.keys() == {spec.name for spec in checkpoint.specs}
    assert [name for name, word in status.items() if word == "fresh"] == ["fc.weight", "fc.bias"]


def test_a_mapping(run, tiny, tmp_path):
    _, arch = tiny
    state = {f"net.{k.replace('blocks', 'layers')}": v for k, v in TinyNet().state_dict().items()}
    surgery.save(state, tmp_path / "other.pt")
    (tmp_path / "map.txt").write_text("net -> \nlayers -> blocks\n")
    result = run("transfer", "other.pt", arch, "--mapping", "map.txt", "--strict")
    assert result.exit_code == 0
    assert "100% of the parameters loaded" in result.stdout


def test_a_line_in_place_of_a_mapping_file(run, tiny):
    result = run("transfer", *tiny, "--mapping", "fc -> (unused)", "--dry-run")
    assert result.exit_code == 2
    assert "'fc -> (unused)' is a line" in result.stderr


def test_like_another_file(run, tiny, tmp_path):
    old, _ = tiny
    wanted = randomise(TinyNet(5), seed=9)
    surgery.save(wanted, tmp_path / "wanted.pt")
    assert run("transfer", old, "like:wanted.pt", "-o", "new.safetensors").exit_code == 0
    written = safetensors.torch.load_file("new.safetensors")
    assert torch.equal(written["fc.weight"], wanted.fc.weight)
    assert torch.equal(written["stem.weight"], randomise(TinyNet(7)).stem.weight)


class TestRefusals:
    """Exit code, one line that names the cause, no output, the source as it was."""

    @pytest.fixture(autouse=True)
    def nothing_changes(self, tmp_path, tiny):
        old, _ = tiny
        before = old.read_bytes()
        yield
        assert old.read_bytes() == before
        assert not list(tmp_path.glob("*TinyNet*")) + list(tmp_path.glob(".*"))

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            pytest.param(["--strict"], 1, "strict: 4 tensors differ", id="strict"),
            pytest.param(["--min-loaded", "0.99"], 1, "only 97.83% of the parameters", id="little"),
            pytest.param(
                ["--mapping", "none.txt"], 2, "none.txt: cannot be read: No such", id="no-mapping"
            ),
            pytest.param(["--key", "ema"], 2, "no state dict has the key ema", id="key"),
            pytest.param(["--min-loaded", "2"], 2, "2.0 is not in the range", id="range"),
            pytest.param(["--min-load", "0"], 2, "--min-loaded", id="option"),
            pytest.param(["--arg", "width"], 2, "expected name=value, found 'width'", id="arg"),
            pytest.param(["--arg", "widht=3"], 2, "did you mean width?", id="arg-name"),
            pytest.param(["--match", "shapes"], 2, "'names', 'structure'", id="match"),
            pytest.param(["--hint", "a -> b"], 2, "--match structure", id="hint"),
            pytest.param(["--seed", "9" * 23], 2, "is not in the range", id="seed"),
            pytest.param(["-o", "x.onnx"], 2, ".onnx", id="suffix"),
        ],
    )
    def test_options(self, run, tiny, words, code, message):
        result = run("transfer", *tiny, *words)
        assert result.exit_code == code
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""

    def test_zero_overlap(self, run, tiny, tmp_path):
        surgery.save({"x.weight": torch.zeros(2)}, tmp_path / "else.pt")
        result = run("transfer", "else.pt", tiny[1], "--min-loaded", 0)
        assert result.exit_code == 1
        assert "not one tensor of the source fits the target" in result.stderr
        assert "the source has x.weight (2)" in result.stderr

    def test_an_architecture_that_nobody_knows(self, run, tiny):
        result = run("transfer", tiny[0], "resnet81")
        assert result.exit_code == 2
        assert "did you mean resnet" in result.stderr

    def test_a_source_that_is_not_there(self, run, tiny):
        result = run("transfer", "tiny.safetensor", tiny[1])
        assert result.exit_code == 2
        assert "did you mean tiny.safetensors?" in result.stderr

    def test_errors_as_json(self, run, tiny):
        result = run("transfer", *tiny, "--strict", "--json")
        assert result.exit_code == 1
        error = json.loads(result.stdout)["error"]
        assert error["kind"] == "TransferRefused"
        assert error["message"].startswith("strict: 4 tensors differ")

    def test_usage_errors_as_json(self, run, tiny):
        result = run("transfer", *tiny, "--json", "--nonsense")
        assert result.exit_code == 2
        assert json.loads(result.stdout)["error"]["kind"] == "NoSuchOption"


@pytest.mark.parametrize("out", ["x.txt", "nofolder/x.safetensors"])
def test_an_output_is_refused_before_anything_is_read(run, out):
    result = run("transfer", "not-even-there.pt", "resnet18", "-o", out)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {out}: no f")


def test_the_same_command_gives_the_same_bytes(run, tiny):
    old, arch = tiny
    for at in range(2):
        assert run("transfer", old, arch, "-o", f"{at}.safetensors").exit_code == 0
    assert Path("0.safetensors").read_bytes() == Path("1.safetensors").read_bytes()


def test_a_factory_that_prints_leaves_one_json_object(run, tiny, tmp_path):
    (tmp_path / "loud.py").write_text(
        f"import sys; sys.path.insert(0, {str(SUPPORT.parent)!r})\n"
        "print('importing')\n"
        "from tiny_models import TinyNet\n"
        "def make():\n    print('making')\n    return TinyNet()\n"
    )
    result = run("transfer", tiny[0], "loud.py:make", "--dry-run", "--json")
    assert json.loads(result.stdout)["architecture"] == "loud.py:make"
    assert "importing\nmaking\n" in result.stderr


def test_examples_of_a_mapping_keep_their_lines(run):
    assert re.search(r"\n +encoder -> backbone\n", run("transfer", "--help").stdout)


def test_an_existing_file_is_refused_without_force(run, tiny, tmp_path):
    (tmp_path / "TinyNet.safetensors").write_text("mine")
    result = run("transfer", *tiny)
    assert result.exit_code == 2
    assert "TinyNet.safetensors exists already; --force replaces it" in result.stderr
    assert (tmp_path / "TinyNet.safetensors").read_text() == "mine"
    assert run("transfer", *tiny, "--force").exit_code == 0
    assert "fc.bias" in safetensors.torch.load_file("TinyNet.safetensors")


@pytest.mark.parametrize("link", ["symlink", "hardlink", "same"])
def test_the_source_can_be_the_output(run, tiny, tmp_path, link):
    old, arch = tiny
    kept = safetensors.torch.load_file(old)["stem.weight"].clone()
    out = tmp_path / "out.safetensors"
    if link == "symlink":
        out.symlink_to(old)
    elif link == "hardlink":
        out.hardlink_to(old)
    else:
        out = old
    assert run("transfer", old, arch, "-o", out, "--force").exit_code == 0
    assert torch.equal(safetensors.torch.load_file(out)["stem.weight"], kept)


def test_a_bug_is_one_line_and_debug_shows_where(run, tiny, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("surgery.transfers.planning.plan", broken)
    result = run("transfer", *tiny)
    assert result.exit_code == 70
    assert result.stderr.splitlines() == [
        "error: out of luck",
        "  this is a bug in surgery (RuntimeError); --debug shows where",
    ]
    assert "Traceback" in run("transfer", *tiny, "--debug").stderr


def test_interrupted(run, tiny, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("surgery.transfers.planning.plan", interrupted)
    result = run("transfer", *tiny)
    assert (result.exit_code, result.stderr.strip()) == (130, "error: interrupted")


def test_a_closed_pipe_is_no_traceback(tmp_path):
    script = "from surgery_cli.main import surgery; surgery(['archs'])"
    ran = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -c "{script}" | head -1'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.stdout.startswith("timm:")
    assert "Traceback" not in ran.stderr
    assert "BrokenPipe" not in ran.stderr


def test_resizers_from_the_command_line(run, old, tmp_path):
    """Grey images and other classes: the stem by itself, the classes by their pairs."""
    words = ("transfer", old, "timm:resnet18", "--arg", "in_chans=1", "--num-classes", 3)
    kept = run(*words, "--dry-run")
    assert kept.exit_code == 1
    assert "shape differs: source (64, 3, 7, 7), target (64, 1, 7, 7)" in kept.stdout
    pairs = ("--resize", "fc=class-rows:0=207,1=7", "--resize", "auto")
    result = run(*words, *pairs, "-o", "grey.safetensors")
    assert result.exit_code == 0, result.output
    assert "class-rows: 2 of 3 classes from 1000, 1 fresh" in result.stdout
    assert "input-channels: 3 input channels to 1: their sum" in result.stdout

    written = safetensors.torch.load_file(tmp_path / "grey.safetensors")
    source = torch.load(old)
    expected = source["conv1.weight"].sum(1, keepdim=True)
    assert torch.equal(written["conv1.weight"], expected)
    assert torch.equal(written["fc.weight"][:2], source["fc.weight"][[207, 7]])
    status = json.loads(
        surgery.open_checkpoint(tmp_path / "grey.safetensors").metadata["surgery.status"]
    )
    assert {name for name, word in status.items() if word == "resized"} == {
        "conv1.weight",
        "fc.weight",
        "fc.bias",
    }
    (tmp_path / "rules.txt").write_text("base lr=1e-3\n:resized lr=1e-2\n")
    groups = run("groups", "grey.safetensors", "--rules", "rules.txt", "--json")
    assert groups.exit_code == 0, groups.output
    rates = {group["name"]: group["tensors"] for group in json.loads(groups.stdout)["groups"]}
    assert 3 in rates.values()


def test_a_resizer_of_no_tensor(run, old):
    result = run("transfer", old, "timm:resnet18", "--resize", "conv=input-channels", "--dry-run")
    assert result.exit_code == 2
    assert "no tensor of the target is called 'conv'; did you mean conv1" in result.stderr


# Two implementations of one network ----------------------------------------------------------

TWINS = Path(__file__).parent.parent / "support" / "attention_twins.py"


@pytest.fixture
def split(tmp_path):
    """The split twin with seven classes, saved."""
    surgery.save(randomise(Split(7)), tmp_path / "split.safetensors")
    return tmp_path / "split.safetensors"


def test_two_implementations_by_structure(run, split, tmp_path):
    result = run("transfer", split, f"{TWINS}:Fused", "--arg", "num_classes=7", "--match=structure")
    assert result.exit_code == 0, result.stderr
    assert "31 of 31 tensors and 100% of the parameters loaded" in result.stdout
    model = Fused(7).eval()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "Fused.safetensors"))
    pictures = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(pictures), randomise(Split(7)).eval()(pictures))


def test_the_same_file_by_names_is_refused_and_told_why(run, split, tmp_path):
    result = run("transfer", split, f"{TWINS}:Fused", "--match=names")
    assert result.exit_code == 1
    assert not (tmp_path / "Fused.safetensors").exists()


def test_why_shows_the_evidence_and_writes_nothing(run, split, tmp_path):
    words = ("transfer", split, f"{TWINS}:Fused", "--match=structure", "--why")
    result = run(*words, "blocks.*.attn.qkv.bias")
    assert result.exit_code == 0, result.stderr
    assert "encoder.layer.1.attention.query.bias + encoder.layer.1.attention.key.bias" in (
        " ".join(result.stdout.split())
    )
    assert "only pair of" in result.stdout
    (step, _) = json.loads(run(*words, "blocks.0.attn.qkv", "--json").stdout)["steps"]
    parts = [part["source"][0].split(".")[-2] for part in step["recipe"]["parts"]]
    assert (step["recipe"]["kind"], parts) == ("joined", ["query", "key", "value"])
    assert step["evidence"]["tier"] == "structure"
    assert step["evidence"]["because"]
    assert not (tmp_path / "Fused.safetensors").exists()
    missed = run(*words, "blocks.*.qkv")
    assert missed.exit_code == 2
    assert "no tensor of the target is called 'blocks.*.qkv'" in missed.stderr


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ("dense -> pro", "no target name has the segments 'pro'; did you mean proj?"),
        ("projection -> mlp.fc1", "hint 'projection -> mlp.fc1' decides nothing"),
        ("dense", "'dense'"),
    ],
)
def test_a_hint_that_is_no_use_is_an_error(run, split, hint, message):
    result = run("transfer", split, f"{TWINS}:Fused", "--match=structure", "--hint", hint)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
