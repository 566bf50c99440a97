"""One target under atheris: ``python -m fuzz.harness TARGET FILE [libFuzzer's own options]``.

Every input is written to FILE, which stays: libFuzzer ends the process without a word to Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["surgery.checkpoint"]):
    import surgery.checkpoint.opening
    import surgery.checkpoint.tensors.reading  # noqa: F401

import torch  # noqa: F401  (its import would count as the first input's time)

from fuzz.agreement import try_both
from fuzz.targets import TARGETS
from fuzz.trial import try_file


def main(words: list[str]) -> None:
    """Fuzz until libFuzzer's limits are reached."""
    name, file, *options = words
    make, path = TARGETS[name], Path(file)

    def try_input(data: bytes) -> None:
        path.write_bytes(make(data))
        try_file(path)
        if name in ("safetensors", "header"):
            try_both(path)

    atheris.Setup([sys.argv[0], *options], try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
