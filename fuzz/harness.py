"""One target under atheris: ``python -m fuzz.harness TARGET [libFuzzer's own options]``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["surgery.checkpoint"]):
    import surgery.checkpoint.index
    import surgery.checkpoint.tensors  # noqa: F401

import torch  # noqa: F401  (its import would count as the first input's time)

from fuzz.agreement import try_both
from fuzz.targets import TARGETS
from fuzz.trial import try_file

_MEMORY = Path("/dev/shm")


def main(words: list[str]) -> None:
    """Fuzz until libFuzzer's limits are reached; it ends the process itself."""
    name, *options = words
    make = TARGETS[name]
    folder = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
    path = folder / f"surgery-fuzz-{os.getpid()}"

    def try_input(data: bytes) -> None:
        path.write_bytes(make(data))
        try_file(path)
        if name in ("safetensors", "header"):
            try_both(path)

    try:
        atheris.Setup([sys.argv[0], *options], try_input)
        atheris.Fuzz()
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
