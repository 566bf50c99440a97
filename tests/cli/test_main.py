import json
import re

import pytest
import torch
from click.testing import CliRunner
from surgery_cli.main import surgery as command
from tiny_models import TinyNet, randomise

import surgery
from surgery.report.transfers import plan_report
from surgery.specs import TensorSpec

COMMANDS = ["transfer", "groups", "inspect", "diff", "archs", "completion"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(command, [str(word) for word in words])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_of_its_own(run, name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Examples:\n.*surgery {name} ", result.stdout, re.DOTALL)


def test_help_lists_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["transfr"], "Did you mean", id="command"),
        pytest.param(["archs", "--jsno"], "--json", id="option"),
        pytest.param(["archs", "zzz"], "matches 'zzz'", id="pattern"),
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


def test_names_are_folded_between_their_parts():
    from rich.console import Console

    names = ["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.num_batches_tracked", "a" * 50]
    plan = surgery.plan_transfer(
        {f"net.{name}": torch.ones(2) for name in names},
        [TensorSpec(name, (2,), "float32") for name in names],
    )
    report = plan_report(plan)
    console = Console(width=60, color_system=None)
    with console.capture() as capture:
        console.print(report)
    words = re.split(r"[\s.,{}]+", capture.get())
    assert {"weight", "running_mean", "num_batches_tracked"} <= set(words)
    assert max(map(len, capture.get().splitlines())) <= 60


def test_a_terminal_gets_tables_and_no_color_is_respected(monkeypatch, capsys):
    from surgery_cli import console

    from surgery.transfers import plan_transfer

    report = plan_report(plan_transfer(TinyNet(7), TinyNet()))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.print_report(report)
    coloured = capsys.readouterr().out
    assert "\x1b[" in coloured
    assert "─" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    console.print_report(report)
    plain = capsys.readouterr().out
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain)
