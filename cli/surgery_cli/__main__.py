"""``python -m surgery_cli``, and the start of a run: Ctrl-C during the imports is no traceback."""

from __future__ import annotations

import sys


def run() -> None:
    """Import the commands and run the one asked for."""
    try:
        from surgery_cli.main import surgery
    except KeyboardInterrupt:
        sys.exit(130)
    surgery(prog_name="surgery")


if __name__ == "__main__":
    run()
