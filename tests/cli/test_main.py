import json
import re

import pytest
import torch
from surgery_cli.main import surgery as command
from tiny_models import TinyNet, randomise

import surgery

COMMANDS = ["transfer", "groups", "inspect", "diff", "archs", "completion"]


@pytest.fixture
def run(surgery_command):
    return surgery_command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_of_its_own(run, name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Examples:\n.*surgery {name} ", result.stdout, re.DOTALL)


def test_help_lists_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)
    commands = result.stdout.partition("Commands:")[2]
    assert "..." not in commands  # each is described whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["transfr"], "Did you mean", id="command"),
        pytest.param(["archs", "--jsno"], "--json", id="option"),
        pytest.param(["archs", "zzz"], "matches 'zzz'", id="pattern"),
        pytest.param(["archs", "resnt50"], "did you mean resnet50", id="near-name"),
        pytest.param(["diff", "only-one"], "Missing argument", id="missing-argument"),
        pytest.param(["completion", "tcsh"], "tcsh", id="shell"),
    ],
)
def test_mistakes(run, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_version(run):
    assert run("--version").stdout == f"surgery, version {surgery.__version__}\n"


def test_archs(run):
    result = run("archs", "resnet18")
    assert {"timm:resnet18", "torchvision:resnet18"} <= set(result.stdout.split())
    listed = json.loads(run("archs", "timm:vit_tiny_*", "--json").stdout)["architectures"]
    assert "timm:vit_tiny_patch16_224" in listed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run, shell):
    assert "_SURGERY_COMPLETE" in run("completion", shell).stdout


def test_architectures_are_completed(monkeypatch):
    from click.shell_completion import ShellComplete

    complete = ShellComplete(command, {}, "surgery", "_SURGERY_COMPLETE")
    bare = complete.get_completions(["transfer", "old.pt"], "convnext_at")
    assert "convnext_atto" in {item.value for item in bare}
    qualified = complete.get_completions(["transfer", "old.pt"], "torchvision:resnet1")
    assert "torchvision:resnet18" in {item.value for item in qualified}


class TestKey:
    """One --key for all files: it is for those that hold several state dicts."""

    @pytest.fixture(autouse=True)
    def files(self, tmp_path):
        one, other = randomise(TinyNet(), 1).state_dict(), randomise(TinyNet(), 2).state_dict()
        torch.save({"model": one, "ema": other}, tmp_path / "two.pt")
        torch.save({**one, "ema": other}, tmp_path / "mixed.pt")
        torch.save(one, tmp_path / "flat.pt")

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            pytest.param(["two.pt", "flat.pt", "--key", "model"], 0, id="second-is-flat"),
            pytest.param(["flat.pt", "two.pt", "--key", "ema"], 1, id="first-is-flat"),
            pytest.param(["two.pt", "two.pt", "--key", "ema"], 0, id="both-have-it"),
            pytest.param(["mixed.pt", "flat.pt", "--key", "."], 0, id="the-file-itself"),
            pytest.param(["two.pt", "flat.pt", "--key", "modle"], 2, id="misspelled"),
            pytest.param(["flat.pt", "flat.pt", "--key", "model"], 2, id="none-has-it"),
            pytest.param(["two.pt", "flat.pt"], 2, id="not-chosen"),
        ],
    )
    def test_diff(self, run, words, code):
        assert run("diff", *words).exit_code == code

    def test_groups_of_a_file(self, run, tmp_path):
        (tmp_path / "rules.txt").write_text("base optimizer=sgd lr=0.1\n")
        assert "--key" in run("groups", "two.pt").stderr
        assert run("groups", "two.pt", "--key", "ema").exit_code == 0
        assert run("groups", "flat.pt", "--from", "two.pt", "--key", "ema").exit_code == 0
        assert run("groups", "timm:resnet18", "--key", "ema").exit_code == 2

    def test_the_file_that_names_are_taken_from(self, run):
        assert "like:two.pt#ema" in run("transfer", "flat.pt", "like:two.pt").stderr
        assert run("transfer", "flat.pt", "like:two.pt#ema", "--dry-run").exit_code == 0


def test_a_terminal_gets_colour_unless_somebody_said_no(monkeypatch, capsys):
    from surgery_cli import console

    plan = surgery.plan_transfer(TinyNet(7), TinyNet())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.show(plan, as_json=False)
    coloured = capsys.readouterr().out
    assert "\x1b[1;33mfresh\x1b[0m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    console.show(plan, as_json=False)
    plain = capsys.readouterr().out
    assert plain == re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert max(map(len, plain.splitlines())) <= 60
