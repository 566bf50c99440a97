"""Every example runs as it stands, in a fresh process and an empty folder."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Warnings of libraries about themselves, on the way of what the examples use; all others fail.
LIGHTNINGS_OWN = [
    "ignore:`isinstance(treespec, LeafSpec)` is deprecated:FutureWarning",
    "ignore:The 'train_dataloader' does not have many workers:UserWarning",
    "ignore:Found 1 module(s) in eval mode:UserWarning",  # the norm that the rules hold
]


def run(example, folder, ignored=()):
    filters = [argument for text in ("error", *ignored) for argument in ("-W", text)]
    ran = subprocess.run(
        [sys.executable, *filters, str(ROOT / "examples" / example)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert not list(folder.iterdir()), "something was left behind"
    return ran.stdout


def needs(library):
    absent = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(absent, reason=f"{library} is not installed")


@pytest.mark.parametrize(
    ("example", "ignored"),
    [
        ("plain_loop.py", ()),
        pytest.param("lightning_loop.py", LIGHTNINGS_OWN, marks=needs("lightning")),
        pytest.param("trainer_loop.py", (), marks=[needs("transformers"), needs("accelerate")]),
    ],
)
@needs("sklearn")
def test_trains_in_stages_and_learns(example, ignored, tmp_path):
    told = run(example, tmp_path, ignored)
    assert len(re.findall(r"^epoch \d+: ", told, re.MULTILINE)) == 12
    assert "epoch 4: 3 parameters now training (stem.weight, norm.weight, norm.bias)" in told
    (share,) = re.findall(r"^(\d+\.\d)% of other images classified correctly$", told, re.MULTILINE)
    assert float(share) > 55  # five of ten digits would be 50
