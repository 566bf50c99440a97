"""What the driver of ``unfreeze@N`` costs an epoch: ``python -m bench.stages``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm

import surgery

ARCH = "vit_base_patch16_224"


def main() -> None:
    """Print the medians. Nothing is asserted: the numbers are for reading."""
    model = timm.create_model(ARCH)
    rules = "base optimizer=adamw lr=1e-4\n" + surgery.gradual_unfreeze(model, every=1)
    optimizer = surgery.build_optimizer(model, rules)
    groups = surgery.resolve_groups(model, rules)
    stages = surgery.build_stages(model, groups, optimizer=optimizer)
    print(f"{ARCH}, {len(stages.unfreezings)} unfreezings")
    _time("build_stages, from groups", lambda _: surgery.build_stages(model, groups))
    _time("start_epoch, one stage more each time", stages.start_epoch)
    last = stages.unfreezings[-1]
    _time("start_epoch, nothing changes", lambda _: stages.start_epoch(last))
    _time("trained_parameters", lambda _: stages.trained_parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.safetensors")
        parts = {"model": model, "optimizer": optimizer, "stages": stages}
        _time("save_training, before a step", lambda _: surgery.save_training(path, **parts), 3)
        _time("resume_training", lambda _: surgery.resume_training(path, **parts), 3)


def _time(title: str, call: Callable[[int], object], runs: int = 13) -> None:
    seconds = []
    for run in range(runs):
        started = time.perf_counter()
        call(run)
        seconds.append(time.perf_counter() - started)
    middle = 1e3 * statistics.median(seconds)
    print(f"  {title:<40} {middle:9.2f} ms ({1e3 * min(seconds):.2f} to {1e3 * max(seconds):.2f})")


if __name__ == "__main__":
    main()
