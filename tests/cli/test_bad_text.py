"""Mappings, rules and patterns that are none: exit 2, one clear line first, within seconds."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from surgery_cli.main import surgery as command
from tiny_models import TinyNet

SUPPORT = Path(__file__).parent.parent / "support" / "tiny_models.py"
TINY = f"{SUPPORT}:TinyNet"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(TinyNet(5).state_dict(), "old.pt")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    with Path("endless").open("wb") as file:
        file.truncate(4 << 30)
    Path("utf-16").write_bytes("a -> b\n".encode("utf-16"))
    return lambda *words: CliRunner().invoke(command, list(words))


def refusal(result: Result) -> str:
    """The first line, of at most a hundred and a few."""
    first, *others = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert first.startswith("error: ")
    assert len(first) < 2100
    assert len(others) <= 101
    return first


@pytest.mark.parametrize(
    "words", [("transfer", "old.pt", TINY, "--mapping"), ("groups", TINY, "--rules")]
)
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/dev/zero", "a character device"),
        ("pipe", "a named pipe"),
        ("folder", "a folder"),
        ("endless", "more than 16 MB"),
        ("utf-16", "not UTF-8 text"),
    ],
)
def test_a_path_that_is_no_text_file(run, words, path, why):
    extra = ("--dry-run",) if words[0] == "transfer" else ()
    line = refusal(run(*words, path, *extra))
    assert path in line
    assert why in line


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(" * 5000 + "a" + ")" * 5000, "characters"),
        ("(" * 100 + "a" + ")" * 100, "brackets within one another"),
        ("[" * 5000, "hold a set"),
        ("/(x+x+)+y", "that no / ends"),
        ("a\ufeff", "which no pattern can have"),
    ],
)
def test_a_pattern_that_cannot_be_read(run, pattern, why):
    Path("map.txt").write_text(f"{pattern} -> b\n", encoding="utf-8")
    assert why in refusal(run("transfer", "old.pt", TINY, "--mapping", "map.txt", "--dry-run"))
    Path("rules.txt").write_text(f"{pattern} lr=1\n", encoding="utf-8")
    assert why in refusal(run("groups", TINY))
    assert why in refusal(run("transfer", "old.pt", TINY, "--dry-run", "--why", pattern))


def test_very_many_lines_that_match_nothing(run):
    count = 20_000
    Path("map.txt").write_text("\n".join(f"layer{at} -> x" for at in range(count)))
    transfer = ("transfer", "old.pt", TINY, "--mapping", "map.txt", "--dry-run")
    assert "map.txt:1: 'layer0'" in refusal(run(*transfer))
    error = json.loads(run(*transfer, "--json").stdout)["error"]
    assert (len(error["problems"]), error["total"]) == (100, count)
    Path("rules.txt").write_text("\n".join(f"layer{at}.* lr=1" for at in range(count)))
    assert "rules.txt:1: 'layer0.*' matches nothing" in refusal(run("groups", TINY))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("map.txt", ("map", "old.pt", TINY, "-o", "map.txt", "--force")),
        ("rules.txt", ("groups", TINY, "--init", "--force")),
    ],
)
def test_a_full_disk_keeps_the_old_file(run, monkeypatch, path, words):
    Path(path).write_text("# mine\n")
    before = sorted(Path().iterdir())

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "No space left on device" in refusal(run(*words))
    assert Path(path).read_text() == "# mine\n"
    assert sorted(Path().iterdir()) == before
    assert run(*words).exit_code == 0
    assert "# mine" not in Path(path).read_text()
