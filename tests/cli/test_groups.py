import json
from pathlib import Path

import pytest
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
def rules(tmp_path):
    """Write rules.txt; returns what writes another one."""

    def write(*lines):
        (tmp_path / "rules.txt").write_text("\n".join(lines) + "\n")

    return write


def groups_of(result):
    assert result.exit_code == 0, result.stderr
    return {g["name"]: g for g in json.loads(result.stdout)["groups"]}


def test_a_model_line_is_enough(run, rules):
    rules("model timm:resnet18", "base optimizer=sgd lr=0.1", "fc lr=1")
    result = run("groups", "--rules", "rules.txt")
    assert result.exit_code == 0
    first, total, *_ = result.stdout.splitlines()
    assert first == "timm:resnet18"
    assert total.startswith("SGD: 11,689,512 of 11,689,512 parameters train, in 2 groups")


def test_the_argument_beats_the_model_line(run, rules):
    rules("model timm:resnet18", "base optimizer=sgd lr=0.1", "fc lr=1")
    result = run("groups", TINY, "--rules", "rules.txt")
    assert result.stdout.startswith(f"{TINY}\n")


def test_what_a_transfer_recorded_reaches_the_rules(run, rules, tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "old.pt")
    assert run("transfer", "old.pt", TINY, "-o", "new.safetensors").exit_code == 0
    rules("base optimizer=sgd", ":new lr=1", ":loaded lr=0.1", "type:BatchNorm* lr*=0.5")
    groups = groups_of(run("groups", "new.safetensors", "--rules", "rules.txt", "--json"))
    rates = {n: dict(g["hyper"])["lr"] for g in groups.values() for n in g["param_names"]}
    assert rates["fc.weight"] == 1
    assert rates["stem.weight"] == 0.1
    assert rates["bn.weight"] == 0.05


def test_a_plain_checkpoint_tells_what_it_would_load(run, rules, tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "old.pt")
    rules("base optimizer=sgd lr=0.1", ":new lr=1")
    result = run("groups", TINY, "--from", "old.pt", "--json")
    rates = {g["hyper"]["lr"]: g["param_names"] for g in groups_of(result).values()}
    assert rates[1] == ["fc.weight", "fc.bias"]


def test_a_file_without_a_record_has_names_and_shapes_alone(run, rules, tmp_path):
    surgery.save(TinyNet(), tmp_path / "plain.pt")
    rules("base optimizer=sgd lr=0.1", "fc, :norm lr=1")
    result = run("groups", "plain.pt")
    assert "names and shapes alone, no module types" in result.stdout
    rules("base optimizer=sgd lr=0.1", "type:Linear lr=1")
    result = run("groups", "plain.pt")
    assert result.exit_code == 2
    assert "rules.txt:2:" in result.stderr


def test_why(run, rules):
    rules("base optimizer=sgd lr=0.1 wd=0.1", "blocks lr*=0.5", ":1d wd=0")
    result = run("groups", TINY, "--why", "blocks.1.0.bias")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["blocks.1.0.bias"]
    assert [line[0] for line in lines[-2:]] == ["2", "3"]
    assert lines[-2][-3:] == ["lr", "=", "0.05"]
    fired = json.loads(run("groups", TINY, "--why", "blocks.1.0.bias", "--json").stdout)["fired"]
    assert [(f["line"], f["attribute"], f["value"]) for f in fired][-2:] == [
        (2, "lr", 0.05),
        (3, "weight_decay", 0.0),
    ]


def test_why_of_nothing(run, rules):
    rules("base optimizer=sgd lr=0.1")
    result = run("groups", TINY, "--why", "blocks.1.0.bais")
    assert result.exit_code == 2
    assert "did you mean blocks.1.0.bias" in result.stderr


class TestInit:
    def test_it_writes_rules_that_work(self, run, tmp_path):
        result = run("groups", "timm:resnet18", "--init")
        assert result.exit_code == 0
        text = (tmp_path / "rules.txt").read_text()
        assert result.stdout == text
        assert "model timm:resnet18" in text
        assert run("groups", "--rules", "rules.txt").exit_code == 0

    def test_a_rules_file_is_never_lost(self, run, rules, tmp_path):
        rules("fc lr=1")
        result = run("groups", TINY, "--init")
        assert result.exit_code == 2
        assert "rules.txt exists already" in result.stderr
        assert (tmp_path / "rules.txt").read_text() == "fc lr=1\n"
        assert run("groups", TINY, "--init", "--force").exit_code == 0

    def test_the_empty_file_that_a_redirection_makes_is_free(self, run, tmp_path):
        (tmp_path / "rules.txt").touch()
        assert run("groups", TINY, "--init").exit_code == 0
        assert (tmp_path / "rules.txt").read_text()

    def test_it_needs_a_model(self, run):
        result = run("groups", "--init")
        assert result.exit_code == 2
        assert "--init needs a MODEL" in result.stderr


@pytest.mark.parametrize(
    ("lines", "place", "message"),
    [
        pytest.param(["fc lr=1", "fcc lr=1"], "rules.txt:2:", "fcc", id="matches-nothing"),
        pytest.param(["fc freze"], "rules.txt:1:", "freeze", id="misspelled-action"),
        pytest.param(["fc lr=-1"], "rules.txt:1:", "-1", id="negative-rate"),
        pytest.param(["fc lr=1", "fc lr=2"], "rules.txt:1:", "overwritten", id="overwritten"),
        pytest.param(["fc weight_deacy=1"], "rules.txt:1:", "weight_decay", id="key"),
        pytest.param([":new lr=1"], "rules.txt:1:", ":new", id="new-without-transfer"),
        pytest.param(["default error", "fc lr=1"], "rules.txt:1:", "no rule names", id="uncovered"),
        pytest.param(["/(/ lr=1"], "rules.txt:1:", "(", id="regex"),
    ],
)
def test_errors_of_the_rules(run, rules, lines, place, message):
    rules(*lines)
    result = run("groups", TINY)
    assert result.exit_code == 2
    assert place in result.stderr
    assert message in result.stderr
    assert result.stdout == ""
    error = json.loads(run("groups", TINY, "--json").stdout)["error"]
    assert error["kind"] == "RuleError"
    assert error["line"] == int(place.split(":")[1])


def test_a_model_line_that_nobody_knows_has_its_line(run, rules):
    rules("# mine", "model timm:resnet81", "fc lr=1")
    result = run("groups")
    assert result.exit_code == 2
    assert "rules.txt:2: timm has no architecture 'resnet81'; did you mean" in result.stderr


def test_errors_of_reading_and_of_meaning_come_together(run, rules):
    rules("layer5 freeze", "blocks frezze", "stem lr=-1")
    result = run("groups", TINY)
    assert result.exit_code == 2
    assert [f"rules.txt:{line}:" in result.stderr for line in (1, 2, 3)] == [True] * 3


def test_no_model_and_no_rules(run, rules):
    result = run("groups")
    assert result.exit_code == 2
    assert "there is no rules.txt; `surgery groups MODEL --init" in result.stderr
    rules("fc lr=1")
    result = run("groups")
    assert result.exit_code == 2
    assert "no model is named" in result.stderr
