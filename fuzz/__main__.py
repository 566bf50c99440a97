"""``make fuzz``: every target for so many seconds, from the corpus that is kept beside this."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.targets import TARGETS, TOKENS

_HERE = Path(__file__).parent
_FOUND = _HERE.parent / "build" / "fuzz"
_MEMORY = Path("/dev/shm")  # an input is a file; this one never reaches a disk
_TRIED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")

# No input of a few kilobytes may need more, on a slow machine too.
_SLOWEST_SECONDS = 20
_MOST_MEMORY_MB = 2048
_LONGEST_INPUT = 4096


def main() -> int:
    """0 where nothing was found. What was found lies in build/fuzz, one input a file."""
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris, on Linux with Python below 3.14: pip install '.[fuzz]'")
        return 2
    seconds = int(os.environ.get("FUZZ_SECONDS", "60"))
    chosen = sys.argv[1:] or list(TARGETS)
    return max([_fuzz(name, seconds) for name in chosen], default=0)


def _fuzz(name: str, seconds: int) -> int:
    _FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        fresh = Path(folder, "new")
        fresh.mkdir()
        words = [name, str(Path(folder, "input")), *_options(name, seconds), str(fresh)]
        ran = subprocess.run(
            [sys.executable, "-m", "fuzz.harness", *words, str(_HERE / "corpus" / name)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            errors="replace",
            check=False,
        )
    tried = _TRIED.search(ran.stderr)
    outcome = "nothing found" if ran.returncode == 0 else f"FOUND, see {_FOUND}"
    print(f"fuzz: {name}: {int(tried[1]) if tried else 0:,} inputs, {outcome}", flush=True)
    if ran.returncode:
        print(ran.stderr[-4000:], file=sys.stderr)
    return 1 if ran.returncode else 0


def _options(name: str, seconds: int) -> list[str]:
    """libFuzzer's; behind them come its folders, the first for what it finds interesting."""
    return [
        f"-max_total_time={seconds}",
        f"-timeout={_SLOWEST_SECONDS}",
        f"-rss_limit_mb={_MOST_MEMORY_MB}",
        f"-max_len={_LONGEST_INPUT}",
        f"-dict={_HERE / 'tokens' / TOKENS[name]}",
        f"-artifact_prefix={_FOUND}/{name}-",
        "-print_final_stats=1",
    ]


if __name__ == "__main__":
    sys.exit(main())
