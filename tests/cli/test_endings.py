"""How a run ends: what cannot be written, signals, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from surgery_cli.main import surgery as command
from tiny_models import TinyNet

import surgery

NET = "net.safetensors"
SURGERY = [sys.executable, "-m", "surgery_cli"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net(tmp_path):
    return surgery.save(TinyNet(), tmp_path / NET)


def shell(words, redirect):
    script = f'"$@" {redirect}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *SURGERY, *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("words", "redirect", "line"),
    [
        pytest.param(
            ["inspect", NET], "> /dev/full", "stdout: cannot be written: No space", id="full"
        ),
        pytest.param(["inspect", NET, "--json"], "> /dev/full", "No space left", id="full-json"),
        pytest.param(["inspect", "none", "--json"], "> /dev/full", "No space", id="full-error"),
        pytest.param(["inspect", NET], ">&-", "stdout is closed", id="closed"),
        pytest.param(["--help"], "> /dev/full", "No space left", id="help"),
    ],
)
def test_a_stdout_that_takes_nothing(net, words, redirect, line):
    ran = shell(words, redirect)
    assert ran.returncode == 2
    assert line in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_an_error_into_a_closed_pipe_is_no_traceback(tmp_path):
    ran = shell(["diff", "none", "nothing", "--json"], "| true")
    assert ran.stderr == ""


WRITING = """
import os, sys, time
def wait(handle):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = wait
from surgery_cli.main import surgery
surgery(["transfer", "net.safetensors", "like:net.safetensors", "-o", "new." + sys.argv[1]])
"""


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)], ids=lambda v: str(v)
)
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_in_the_middle_of_writing_leaves_nothing(net, tmp_path, name, code, suffix):
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, suffix],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2
        running.send_signal(getattr(signal, name))
        _, said = running.communicate(timeout=30)
    assert running.returncode == code
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == [net]


def test_ctrl_c_during_the_imports_is_no_traceback():
    code = (
        "import sys, builtins, runpy\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "runpy.run_module('surgery_cli', run_name='__main__')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (130, "")


def test_the_callers_signal_handlers_are_put_back(net):
    before = signal.getsignal(signal.SIGTERM)
    CliRunner().invoke(command, ["inspect", str(net)])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_rules_file_that_cannot_be_written(tmp_path):
    ran = CliRunner().invoke(command, ["groups", "timm:resnet18", "--init", "--rules", "no/r.txt"])
    assert ran.exit_code == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: no/r.txt: no folder ")


def test_bare_surgery_is_its_help():
    ran = CliRunner().invoke(command, [])
    assert ran.exit_code == 2
    assert ran.stderr.startswith("Usage: ")
    assert "error:" not in ran.stderr
    assert "\\n" not in ran.stderr


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_errors_without_colour(name, value, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    coloured = CliRunner().invoke(command, ["inspect", "none"], color=True)
    assert "\x1b[31m" in coloured.stderr
    monkeypatch.setenv(name, value)
    assert "\x1b" not in CliRunner().invoke(command, ["inspect", "none"], color=True).stderr


def test_json_is_ascii_and_has_no_infinity(tmp_path):
    from surgery_cli.console import print_json

    torch.save({"x\x9b\u202e\ud800": torch.tensor([1.0])}, tmp_path / "a.pt")
    torch.save({"x\x9b\u202e\ud800": torch.tensor([torch.inf])}, tmp_path / "b.pt")
    ran = CliRunner().invoke(command, ["diff", "a.pt", "b.pt", "--json"])
    assert ran.stdout.isascii()
    (value,) = json.loads(ran.stdout)["values"]
    assert (value["name"], value["largest"]) == ("x\x9b\u202e\ud800", None)
    text = CliRunner().invoke(command, ["diff", "a.pt", "b.pt"]).stdout
    assert r"x\x9b\u202e\ud800" in text
    assert text.isascii()
    print_json({"nested": [{"lr": float("nan")}]})
