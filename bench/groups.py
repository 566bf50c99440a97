"""What groups and stages cost a training run: optimizer steps in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import timm
import torch

import surgery
from bench.pairs import spread

ARCH = "vit_base_patch16_224"
PAIRS = 40

#: Ten lines that cut the network into groups, as a person who fine-tunes might.
RULES = """
base optimizer=adamw lr=1e-4 wd=0.05
patch_embed lr*=0.1
pos_embed, cls_token lr*=0.1 wd=0
blocks.[0-2] lr*=0.2
blocks.[3-5] lr*=0.4
blocks.[6-8] lr*=0.6
blocks.9, blocks.1? lr*=0.8
:norm wd=0
:bias wd=0
norm lr*=0.9
head lr*=10
"""
#: The same network, one half after the other.
STAGES = "base optimizer=adamw lr=1e-4\nblocks.[0-5] unfreeze@2\nblocks.[6-9] unfreeze@1"


def compare_groups() -> None:
    """Print the steps of many groups against those of one, and what an epoch's start costs."""
    model = timm.create_model(ARCH)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    for kernel in ("foreach", "fused"):
        _compare_steps(model, {kernel: True})
    _time_stages(model)


def _compare_steps(model: torch.nn.Module, kernel: Mapping[str, Any]) -> None:
    """Both optimizers step the same parameters with the same gradients, in turn."""
    grouped = surgery.build_optimizer(model, RULES, **kernel)
    plain = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, **kernel)
    grouped.step(), plain.step()  # state is made in the first one
    pairs = [_pair(grouped.step, plain.step, swapped=bool(run % 2)) for run in range(PAIRS)]
    ours, theirs = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    groups = len(grouped.param_groups)
    print(f"\n{ARCH}: AdamW.step(), {groups} groups against 1, {next(iter(kernel))}")
    print(f"  ours    {spread(ours, 'ms')}")
    print(f"  theirs  {spread(theirs, 'ms')}")
    print(f"  ratio   {spread(ratios, '')}")


def _pair(
    ours: Callable[[], object], theirs: Callable[[], object], *, swapped: bool
) -> tuple[float, float]:
    """Milliseconds of both; who goes first changes, as the other leaves caches that are its own."""
    if swapped:
        second = _milliseconds(theirs)
        return _milliseconds(ours), second
    return _milliseconds(ours), _milliseconds(theirs)


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _time_stages(model: torch.nn.Module) -> None:
    """Epochs that change something are among them, and most do not, as in a run."""
    stages = surgery.build_stages(model, STAGES)
    epochs = [_milliseconds(partial(stages.start_epoch, epoch)) for epoch in range(PAIRS)]
    print(f"\n{ARCH}: stages.start_epoch(n), {PAIRS} epochs\n  ours    {spread(epochs, 'ms')}")
