import json
from functools import partial
from pathlib import Path

import pytest
from tiny_models import TinyNet, randomise

import surgery

SUPPORT = Path(__file__).parent.parent / "support" / "tiny_models.py"
TINY = f"{SUPPORT}:TinyNet"
RULES = """\
base optimizer=sgd
split blocks fc lr=1e-6,1e-4,1e-2
blocks unfreeze@2
schedule sgdr T_0=1epoch T_mult=2 by=step
"""


@pytest.fixture
def run(surgery_command, tmp_path):
    (tmp_path / "rules.txt").write_text(RULES)
    return partial(surgery_command, "schedule")


def test_the_table(run):
    result = run(TINY, "--epochs", 7, "--steps-per-epoch", 100)
    assert result.exit_code == 0, result.stderr
    first, second, *rest = result.stdout.splitlines()
    assert first == TINY
    assert second == (
        "schedule sgdr T_0=1epoch T_mult=2 by=step: 7 epochs of 100 steps, "
        "a new learning rate each step"
    )
    rows = {line.split()[0]: line.split(maxsplit=5) for line in rest if line.startswith("   ")}
    assert rows["1"] == ["1", "100", "1", "1e-06", "frozen", "0.01  restart"]
    assert rows["2"][-1].endswith("blocks unfreezes")
    assert rows["3"][-1].endswith("restart")


def test_json(run):
    result = run(TINY, "--epochs", 7, "--steps-per-epoch", 10, "--json")
    told = json.loads(result.stdout)
    assert told["architecture"] == TINY
    assert told["restarts"] == [1.0, 3.0]
    assert len(told["factors"]) == 70
    assert [group["name"] for group in told["groups"]] == ["stem..bn", "blocks", "fc"]


def test_the_plot(run, tmp_path):
    result = run(TINY, "--epochs", 7, "--steps-per-epoch", 10, "--plot", "lr.svg")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "wrote lr.svg\n"
    assert (tmp_path / "lr.svg").read_text().startswith("<?xml")
    result = run(TINY, "--epochs", 7, "--steps-per-epoch", 10, "--plot", "lr.png", "--json")
    assert json.loads(result.stdout)["plot"] == "lr.png"


def test_a_plot_replaces_a_file_only_by_force(run, tmp_path):
    (tmp_path / "lr.svg").write_text("mine")
    plotted = (TINY, "--epochs", 7, "--plot", "lr.svg")
    result = run(*plotted)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (tmp_path / "lr.svg").read_text() == "mine"
    assert run(*plotted, "--force").exit_code == 0
    assert "<svg" in (tmp_path / "lr.svg").read_text()


def test_a_plot_that_cannot_be(run, tmp_path):
    result = run(TINY, "--epochs", 7, "--steps-per-epoch", 10, "--plot", "lr.doc")
    assert result.exit_code == 2
    assert "lr.doc: no picture format" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "lr.doc").exists()


def test_what_a_transfer_recorded(run, tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "old.pt")
    (tmp_path / "rules.txt").write_text(
        "base optimizer=sgd lr=0.1\n:new lr=1\nschedule exponential gamma=0.5\n"
    )
    result = run(TINY, "--from", "old.pt", "--epochs", 2, "--json")
    groups = {group["name"]: group["rates"] for group in json.loads(result.stdout)["groups"]}
    assert groups["fc"] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schedule cosin", "rules.txt:1: no schedule is called 'cosin'; did you mean cosine?"),
        ("schedule sgdr T_0=0", "rules.txt:1: T_0: expected a whole number from 1"),
        ("schedule cosine warmup=9", "rules.txt:1: a warm-up of 9 leaves nothing of the run's 7"),
        ("split fc lr=1e-3,0", "rules.txt:1: 'lr=1e-3,0': expected a number above 0, found '0'"),
        ("split fcc lr=1,2", "rules.txt:1: the model has nothing called 'fcc'; did you mean fc"),
    ],
)
def test_errors_of_the_rules(run, tmp_path, line, message):
    (tmp_path / "rules.txt").write_text(f"{line}\n")
    result = run(TINY, "--epochs", 7, "--plot", "lr.png")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "lr.png").exists()
    error = json.loads(run(TINY, "--epochs", 7, "--json").stdout)["error"]
    assert (error["kind"], error["line"]) == ("RuleError", 1)


def test_errors_of_the_call(run):
    assert run(TINY).exit_code == 2
    assert "Missing option '--epochs'" in run(TINY).stderr
    assert run(TINY, "--epochs", 0).exit_code == 2
    result = run("--epochs", 7)
    assert result.exit_code == 2
    assert "no model is named" in result.stderr
