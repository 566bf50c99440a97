"""Moving weights: whole processes against `cp` and against the three steps as people write them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.pairs import compare, run_inside, run_whole, spread

PYTHON = sys.executable
SURGERY = (PYTHON, "-m", "surgery_cli")

LARGE = "timm:vit_large_patch16_224"
#: State dicts of 0.3, 1.2 and 5.1 GB.
SIZES = ("timm:vit_base_patch16_224", LARGE, "timm:regnety_2560")

#: Kilobytes of address space: Python alone maps some 30,000.
LIMIT = 400_000

THREE_STEPS = """
import timm, torch
from safetensors.torch import load_file, save_file
path = {old!r}
old = load_file(path) if path.endswith(".safetensors") else torch.load(path, weights_only=True)
model = timm.create_model({arch!r}{classes})
new = model.state_dict()
new.update({{k: v for k, v in old.items() if k in new and v.shape == new[k].shape}})
model.load_state_dict(new)
save_file(model.state_dict(), {out!r})
"""

MANY_BY_HAND = """
from safetensors.torch import load_file, save_file
old, new = load_file({old!r}), load_file({like!r})
new.update({{k: v for k, v in old.items() if k in new and v.shape == new[k].shape}})
save_file(new, {out!r})
"""

#: A live model with memory and without initial values; what is timed is the loading alone.
LIVE = """
import resource, time, timm, torch
with torch.device("meta"):
    model = timm.create_model({arch!r})
model.to_empty(device="cpu")
started = time.perf_counter()
{load}
seconds = time.perf_counter() - started
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
OUR_LOAD = "import surgery; surgery.transfer({old!r}, model)"
THEIR_LOADS = {
    ".pt": "model.load_state_dict(torch.load({old!r}, mmap=True, weights_only=True))",
    ".safetensors": "from safetensors.torch import load_model; load_model(model, {old!r})",
}


def compare_transfers(folder: Path) -> None:
    """Print every comparison; ``folder`` needs room for some 16 GB."""
    print(compare("surgery --help, against python doing nothing", *_help(), runs=15))
    for name in ("large.safetensors", "large.pt"):
        with _made("random", LARGE, folder / name) as old:
            _against_cp(old, LARGE, runs=9)
            _against_three_steps(old, LARGE)
            _live(old, LARGE)
    with _made("random", LARGE, folder / "half.safetensors", "float16") as old:
        _against_three_steps(old, LARGE, "--num-classes", "10")
    for arch in SIZES:
        with _made("random", arch, folder / "sized.safetensors") as old:
            _memory(old, arch)
            _inspect(old)
    _many(folder)


@contextmanager
def _made(kind: str, *words: str | Path) -> Iterator[Path]:
    """A file that ``bench.files`` makes; it is gone afterwards."""
    subprocess.run([PYTHON, "-m", "bench.files", kind, *map(str, words)], check=True)
    path = next(word for word in words if isinstance(word, Path))
    try:
        yield path
    finally:
        path.unlink()


def _help() -> tuple[Sequence[str], Sequence[str]]:
    return [*SURGERY, "--help"], [PYTHON, "-c", "pass"]


def _transfer(old: Path, arch: str, out: Path, *options: str) -> list[str]:
    return [*SURGERY, "transfer", str(old), arch, "-o", str(out), *options]


def _against_cp(old: Path, arch: str, *, runs: int) -> None:
    out = old.with_name("out.safetensors")
    copy = ["sh", "-c", f"cp {old} {out} && sync {out}"]
    title = f"\n{_about(old)} into {arch}, all tensors copied, against cp and sync of {old.name}"
    print(compare(title, _transfer(old, arch, out), copy, runs=runs, before=_removing(out)))
    out.unlink()


def _against_three_steps(old: Path, arch: str, *options: str) -> None:
    out = old.with_name("out.safetensors")
    classes = f", num_classes={options[-1]}" if options else ""
    script = THREE_STEPS.format(
        old=str(old), arch=arch.removeprefix("timm:"), classes=classes, out=str(out)
    )
    title = f"\n{_about(old)} into {' '.join((arch, *options))}, against the three steps by hand"
    ours = _transfer(old, arch, out, *options)
    print(compare(title, ours, [PYTHON, "-c", script], runs=5, before=_removing(out)))
    out.unlink()


def _live(old: Path, arch: str) -> None:
    theirs = THEIR_LOADS[old.suffix]
    commands = (
        [PYTHON, "-c", LIVE.format(arch=arch.removeprefix("timm:"), load=load.format(old=str(old)))]
        for load in (OUR_LOAD, theirs)
    )
    title = f"\n{_about(old)} into a live model, against {theirs.format(old=old.name)}"
    print(compare(title, *commands, runs=9, measure=run_inside))


def _memory(old: Path, arch: str) -> None:
    out = old.with_name("out.safetensors")
    command = " ".join(_transfer(old, arch, out, "--force"))
    run_whole(["sh", "-c", command])  # the signature is remembered from here on
    runs = [run_whole(["sh", "-c", f"ulimit -v {LIMIT}; exec {command}"]) for _ in range(3)]
    out.unlink()
    print(f"\n{_about(old)} into {arch}, in no more than {LIMIT:,} kB of address space")
    print(f"  ours    {spread([run.seconds for run in runs], 's')}")
    print(f"  peak    {spread([run.mebibytes for run in runs], 'MiB')}")


def _inspect(path: Path) -> None:
    runs = [run_whole([*SURGERY, "inspect", str(path)]) for _ in range(7)]
    print(f"surgery inspect, {_about(path)}")
    print(f"  ours    {spread([run.seconds for run in runs], 's')}")


def _many(folder: Path) -> None:
    out = folder / "out.safetensors"
    with (
        _made("many", folder / "old.safetensors", "100000") as old,
        _made("many", folder / "like.safetensors", "100000") as like,
    ):
        script = MANY_BY_HAND.format(old=str(old), like=str(like), out=str(out))
        title = "\n100,000 tensors of 64 numbers into like:, against the three steps by hand"
        ours = _transfer(old, f"like:{like}", out)
        print(compare(title, ours, [PYTHON, "-c", script], runs=3, before=_removing(out)))
    out.unlink()


def _removing(path: Path) -> Callable[[], None]:
    return partial(path.unlink, missing_ok=True)


def _about(path: Path) -> str:
    return f"{path.name} ({path.stat().st_size / 1e9:.1f} GB)"
