"""Whatever names a file has and whatever stdout can say: text, never an error in between."""

import json
import os
import subprocess
import sys

import pytest
import torch

GREEK, CHINESE, LONE, ESCAPE = "λέξη.weight", "层.bias", "half\udcff.w", "red\x1b[31m.w"
LONG = "deep." + "x" * 1_000_000 + ".end"
#: What an environment sets, and whether stdout can say Greek and Chinese then.
ENVIRONMENTS = {
    "utf-8": ({"PYTHONIOENCODING": "utf-8"}, True, True),
    "ascii": ({"PYTHONIOENCODING": "ascii"}, False, False),
    "latin-1": ({"PYTHONIOENCODING": "latin-1"}, False, False),
    "cp1252": ({"PYTHONIOENCODING": "cp1252"}, False, False),
    "iso8859-7": ({"PYTHONIOENCODING": "iso8859-7"}, True, False),
    "LANG=C": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, False, False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    for name, fill in (("a.pt", 1.0), ("b.pt", 2.0)):
        state = {key: torch.full((3,), fill) for key in (GREEK, CHINESE, LONE, ESCAPE)}
        torch.save(state, folder / name)
    torch.save({LONG: torch.ones(3)}, folder / "long.pt")
    return folder


def run(folder, environment, *words):
    ran = subprocess.run(
        [sys.executable, "-m", "surgery_cli", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
@pytest.mark.parametrize(
    ("words", "code"), [(["inspect", "a.pt"], 0), (["diff", "a.pt", "b.pt"], 1)], ids=str
)
def test_what_stdout_cannot_say_is_escaped(folder, environment, words, code):
    variables, greek, chinese = environment
    ended, stdout, stderr = run(folder, variables, *words)
    assert (ended, stderr) == (code, b"")
    text = stdout.decode(variables.get("PYTHONIOENCODING", "ascii"))
    assert (GREEK in text, CHINESE in text) == (greek, chinese)
    assert (r"\u03bb\u03ad\u03be\u03b7.weight" in text) is not greek
    assert r"half\udcff.w" in text
    assert r"red\x1b[31m.w" in text


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_an_error_names_what_it_is_about(folder, environment):
    variables, greek, _ = environment
    code, stdout, stderr = run(folder, variables, "inspect", "λέξη.pt")
    assert (code, stdout) == (2, b"")
    text = stderr.decode(variables.get("PYTHONIOENCODING", "ascii"))
    assert ("λέξη.pt" in text) is greek
    assert text.startswith("error: ")


def test_json_is_whole_in_every_encoding(folder):
    for variables, _, _ in ENVIRONMENTS.values():
        code, stdout, _ = run(folder, variables, "inspect", "a.pt", "--json")
        assert code == 0
        (state,) = json.loads(stdout.decode("ascii"))["state_dicts"]
        assert [tensor["name"] for tensor in state["tensors"]] == [GREEK, CHINESE, LONE, ESCAPE]


def test_a_name_of_a_megabyte(folder):
    code, stdout, _ = run(folder, {}, "inspect", "long.pt")
    assert code == 0
    assert len(stdout) < 2000
    assert b"deep.x" in stdout
    code, stdout, _ = run(folder, {}, "inspect", "long.pt", "--json")
    (state,) = json.loads(stdout)["state_dicts"]
    assert state["tensors"][0]["name"] == LONG


def test_a_hundred_problems_are_listed_and_the_rest_counted(folder):
    (folder / "rules.txt").write_text("no.such lr=1\n" * 300)
    words = ("groups", "a.pt", "--rules", "rules.txt")
    code, _, stderr = run(folder, {}, *words)
    assert code == 2
    lines = stderr.decode().splitlines()
    assert len(lines) == 101
    assert lines[-1] == "  ... and 200 more"
    _, stdout, _ = run(folder, {}, *words, "--json")
    error = json.loads(stdout)["error"]
    assert (len(error["problems"]), error["total"]) == (100, 300)
