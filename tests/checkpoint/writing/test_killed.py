"""A writer that is killed at every one of its calls leaves the old file or the new one, whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import surgery
from surgery.checkpoint.conversion import convert

SCRIPT = Path(__file__).parents[2] / "support" / "killing.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def state(value):
    shapes = {"a": (200, 100), "b": (3,), "c": (130, 100), "d": (), "e": (0, 2), "f": (20_000,)}
    made = {name: torch.full(shape, value) for name, shape in shapes.items()}
    return {**made, "tied": made["a"]}


@pytest.mark.parametrize(
    ("job", "old", "least"),
    [
        pytest.param("safetensors", "single", 36, id="a-file"),
        pytest.param("pt", "pt", 40, id="a-torch-file"),
        pytest.param("transfer", "single", 36, id="a-transfer"),
        pytest.param("set", "set", 120, id="a-set-over-a-set"),
        pytest.param("set", "single", 120, id="a-set-over-a-file"),
        pytest.param("one", "set", 46, id="a-file-over-a-set"),
    ],
)
def test_killed_at_every_call(job, old, least, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    if old == "pt":
        surgery.save(state(1.0), start / "out.pt")
    else:
        most = 100_000 if old == "set" else None
        surgery.save(state(1.0), start / "out.safetensors", max_shard_size=most)
    torch.save(state(2.0), tmp_path / "new.pt")
    convert(tmp_path / "new.pt", tmp_path / "new.safetensors")
    surgery.save(state(3.0), tmp_path / "like.safetensors")
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), job, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    print(f"killed at {ran.stdout.strip()} points")
    assert int(ran.stdout) >= least
