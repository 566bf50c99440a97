"""Print every comparison. Nothing is asserted: the numbers are for reading."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench.many import compare_many
from bench.patterns import compare_patterns
from bench.structure import compare_structure
from bench.transfers import compare_transfers


def main() -> None:
    """Run in a folder that goes away, with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SURGERY_CACHE_DIR"] = str(Path(folder) / "cache")
        _have_bytecode(Path(folder) / "bytecode")
        compare_transfers(Path(folder))
        compare_many()
        compare_structure()
        compare_patterns()
    from bench.groups import compare_groups  # imports torch, and children would look as large

    compare_groups()


def _have_bytecode(folder: Path) -> None:
    """As an installed package has: what is timed is not the compiler."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


if __name__ == "__main__":
    main()
