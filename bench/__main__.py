"""Print every comparison. Nothing is asserted: the numbers are for reading."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.groups import compare_groups
from bench.pairs import compare

PYTHON = sys.executable
SURGERY = [PYTHON, "-m", "surgery_cli"]

MAKE_SOURCE = """
import timm, torch
torch.save(timm.create_model("{arch}").state_dict(), "{old}")
"""

#: The three steps as people write them, into a model with another head.
THREE_STEPS = """
import timm, torch
from safetensors.torch import save_file
old = torch.load("{old}", weights_only=True)
model = timm.create_model("{arch}", num_classes=10)
new = model.state_dict()
new.update({{k: v for k, v in old.items() if k in new and v.shape == new[k].shape}})
model.load_state_dict(new)
save_file(model.state_dict(), "{out}")
"""

HAND_WRITTEN = """
import timm, torch
old = torch.load("{old}", weights_only=True)
model = timm.create_model("{arch}", num_classes=10)
new = model.state_dict()
new.update({{k: v for k, v in old.items() if k in new and v.shape == new[k].shape}})
model.load_state_dict(new)
"""

LIBRARY = """
import timm, surgery
model = timm.create_model("{arch}", num_classes=10)
surgery.transfer("{old}", model)
"""


def main() -> None:
    """Run in a folder that goes away."""
    print(
        compare(
            "surgery --help, against python doing nothing",
            [*SURGERY, "--help"],
            [PYTHON, "-c", "pass"],
            runs=15,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        for arch in ("resnet50", "vit_base_patch16_224"):
            _transfers(arch, Path(folder))
    compare_groups()


def _transfers(arch: str, folder: Path) -> None:
    old, out = folder / f"{arch}.pt", folder / f"{arch}.safetensors"
    names = {"arch": arch, "old": old, "out": out}
    subprocess.run([PYTHON, "-c", MAKE_SOURCE.format(**names)], check=True)
    print(
        compare(
            f"\n{arch}: surgery transfer into a file, against the three steps by hand",
            [
                *SURGERY,
                "transfer",
                str(old),
                f"timm:{arch}",
                "--num-classes",
                "10",
                "-o",
                str(out),
                "--force",
            ],
            [PYTHON, "-c", THREE_STEPS.format(**names)],
        )
    )
    print(
        compare(
            f"\n{arch}: surgery.transfer into a live model, against the three steps by hand",
            [PYTHON, "-c", LIBRARY.format(**names)],
            [PYTHON, "-c", HAND_WRITTEN.format(**names)],
        )
    )


if __name__ == "__main__":
    main()
