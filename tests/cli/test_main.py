import json
import re

import pytest
import torch
from click.testing import CliRunner
from surgery_cli.main import surgery as command
from tiny_models import TinyNet, randomise

import surgery

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


class TestInspect:
    def test_a_state_dict(self, run, tmp_path):
        surgery.save(TinyNet(), tmp_path / "net.pt", metadata={"note": "mine"})
        result = run("inspect", "net.pt")
        assert result.exit_code == 0
        assert result.stdout.startswith("net.pt: torch zip, ")
        assert "blocks.{0..2}.0.{weight,bias}" in result.stdout

    def test_several_state_dicts_are_all_shown(self, run, tmp_path):
        one, ema = TinyNet().state_dict(), TinyNet().state_dict()
        torch.save({"state_dict": one, "state_dict_ema": ema, "epoch": 3}, tmp_path / "x.pth")
        shown = json.loads(run("inspect", "x.pth", "--json").stdout)
        assert [entry["key"] for entry in shown["state_dicts"]] == ["state_dict", "state_dict_ema"]
        assert "epoch" in shown["others"]

    def test_a_strangers_names_cannot_drive_the_terminal(self, run, tmp_path):
        torch.save({"\x1b[31mred\x07": torch.zeros(1)}, tmp_path / "x.pt")
        result = run("inspect", "x.pt")
        assert "\x1b" not in result.stdout
        assert r"\x1b[31mred\x07" in result.stdout

    def test_what_is_no_checkpoint(self, run, tmp_path):
        (tmp_path / "page.pt").write_text("<!DOCTYPE html><html></html>")
        result = run("inspect", "page.pt")
        assert result.exit_code == 2
        assert "HTML" in result.stderr


class TestDiff:
    def test_the_same_in_two_formats(self, run, tmp_path):
        model = randomise(TinyNet())
        surgery.save(model, tmp_path / "a.pt")
        surgery.save(model, tmp_path / "b.safetensors")
        result = run("diff", "a.pt", "b.safetensors")
        assert result.exit_code == 0
        assert "29 tensors are equal, 0 differ, 0 are in one only" in result.stdout

    def test_differences_exit_1(self, run, tmp_path):
        surgery.save(randomise(TinyNet(7), 1), tmp_path / "a.pt")
        surgery.save(randomise(TinyNet(5), 1), tmp_path / "b.pt")
        result = run("diff", "a.pt", "b.pt")
        assert result.exit_code == 1
        assert "another shape or dtype" in result.stdout
        found = json.loads(run("diff", "a.pt", "b.pt", "--json").stdout)
        assert found["same"] is False
        assert [pair[0][0] for pair in found["respecified"]] == ["fc.weight", "fc.bias"]


def test_a_terminal_gets_tables_and_no_color_is_respected(monkeypatch, capsys):
    from surgery_cli import console

    from surgery.transfers import plan_transfer

    report = __import__("surgery.report").report.plan_report(plan_transfer(TinyNet(7), TinyNet()))
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
