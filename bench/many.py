"""What 100,000 small tensors cost to look at: ``python -m bench.many``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.pairs import compare

TENSORS = 100_000

#: Named as layers are, and small: the names and shapes are the work, not the values.
MAKE = """
import torch
from safetensors.torch import save_file
state = {{f"blocks.{{i // 10}}.fc{{i % 10}}.weight": torch.full((4,), i) for i in range({count})}}
torch.save(state, "{pt}")
save_file(state, "{safetensors}")
"""

OPEN = "from surgery.checkpoint import open_checkpoint; open_checkpoint({path!r}).specs"

#: The import of torch is in theirs, as it is in everyone's: without it there is no torch.load.
TORCH_LOAD = "import torch; torch.load({path!r}, weights_only=True)"

#: Names alone: the shapes would need one call for each tensor.
SAFE_OPEN = """
from safetensors import safe_open
with safe_open({path!r}, framework="pt") as file:
    list(file.keys())
"""


def compare_many() -> None:
    """Print our opening of a file of many tensors against torch's and safetensors' own."""
    with tempfile.TemporaryDirectory() as folder:
        pt, safetensors = Path(folder, "many.pt"), Path(folder, "many.safetensors")
        make = MAKE.format(count=TENSORS, pt=pt, safetensors=safetensors)
        subprocess.run([sys.executable, "-c", make], check=True)
        _compare(f"{TENSORS:,} tensors in a .pt: open_checkpoint, torch.load", pt, TORCH_LOAD)
        title = f"{TENSORS:,} tensors in a .safetensors: open_checkpoint, safe_open and keys"
        _compare(title, safetensors, SAFE_OPEN)


def _compare(title: str, path: Path, theirs: str) -> None:
    commands = [[sys.executable, "-c", code.format(path=str(path))] for code in (OPEN, theirs)]
    print(compare(f"\n{title}", *commands))


if __name__ == "__main__":
    compare_many()
