import json

import pytest
import torch
from click.testing import CliRunner
from surgery_cli.main import surgery as command
from two_implementations import build

import surgery

ARCH = "torchvision:resnet18"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(command, [str(word) for word in words])


@pytest.fixture(scope="module")
def state():
    return build("hf:resnet18").state_dict()


@pytest.fixture
def old(state, tmp_path):
    path = tmp_path / "old.pt"
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    return path.name


def test_stdout_is_the_file_and_transfer_takes_it(run, old, tmp_path):
    result = run("map", old, ARCH)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second, third, *_ = result.stdout.splitlines()
    assert first == f"# old.pt -> {ARCH}"
    assert second == (
        "# 122 of 122 tensors and 100% of the parameters; 0 stay fresh, 0 of the source unused"
    )
    assert third == "# surgery transfer OLD NEW-ARCH --mapping THIS-FILE"
    (tmp_path / "map.txt").write_text(result.stdout)
    for how, out in (("--match=structure", "one.pt"), ("--mapping=map.txt", "two.pt")):
        assert run("transfer", old, ARCH, how, "--strict", "-o", out).exit_code == 0
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_an_output_file_is_not_replaced_unasked(run, old, tmp_path):
    assert run("map", old, ARCH, "-o", "map.txt").stderr == "wrote map.txt\n"
    written = (tmp_path / "map.txt").read_text()
    refused = run("map", old, ARCH, "-o", "map.txt")
    assert refused.exit_code == 2
    assert "map.txt exists already; --force replaces it; or choose another -o" in refused.stderr
    again = run("map", old, ARCH, "-o", "map.txt", "--force")
    assert (again.exit_code, again.stdout) == (0, "")
    assert (tmp_path / "map.txt").read_text() == written
    assert run("map", old, ARCH).stdout == written


def test_a_file_that_cannot_be_written(run, old):
    result = run("map", old, ARCH, "-o", "no/such/folder.txt")
    assert result.exit_code == 2
    assert "no/such/folder.txt: no folder " in result.stderr


def test_json(run, old):
    result = run("map", old, ARCH, "--num-classes", "7", "--json")
    shown = json.loads(result.stdout)
    assert shown["architecture"] == ARCH
    assert shown["output"] is None
    assert shown["mapping"].startswith("# old.pt -> ")
    assert shown["fresh"] == ["fc.weight", "fc.bias"]
    assert shown["unused"] == ["module.classifier.1.weight", "module.classifier.1.bias"]
    assert shown["open"] == []
    assert 0.99 < shown["loaded_fraction"] < 1


def test_another_network_is_refused(run, old):
    result = run("map", old, "torchvision:vgg11")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not one tensor of the source fits the target" in result.stderr
    shown = json.loads(run("map", old, "torchvision:vgg11", "--json").stdout)
    assert shown["error"]["kind"] == "TransferRefused"


def test_too_little_is_refused_as_asked(run, old):
    words = ("map", old, ARCH, "--num-classes", "7")
    assert run(*words, "--min-loaded", "0.999999").exit_code == 1
    assert run(*words, "--min-loaded", "0.9").exit_code == 0


def test_a_hint_that_settles_nothing(run, old):
    result = run("map", old, ARCH, "--hint", "nowhere -> fc")
    assert result.exit_code == 2
    assert "no source name has the segments 'nowhere'" in result.stderr


def test_names_that_agree_need_no_line(run, tmp_path):
    surgery.save(build("tv:resnet18"), tmp_path / "same.safetensors")
    result = run("map", "same.safetensors", ARCH)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "# the names agree: no line is needed"
    (tmp_path / "map.txt").write_text(result.stdout)
    assert (
        run("transfer", "same.safetensors", ARCH, "--mapping", "map.txt", "--dry-run").exit_code
        == 0
    )


def test_a_line_that_was_edited_wrongly_is_named(run, old, tmp_path):
    text = run("map", old, ARCH).stdout
    (tmp_path / "map.txt").write_text(text.replace("classifier", "clasifier"))
    result = run("transfer", old, ARCH, "--mapping", "map.txt", "--dry-run")
    assert result.exit_code == 2
    assert "did you mean classifier?" in result.stderr
    assert "map.txt:" in result.stderr
