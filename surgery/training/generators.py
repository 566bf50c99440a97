"""The states of torch's random generators: the CPU's and, once in use, those of the GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def generator_states() -> dict[str, Any]:
    """The states as uint8 tensors. GPUs that are not in use yet stay so."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def check_generators(states: Mapping[str, Any]) -> dict[str, Any]:
    """ValueError for other states: generators crash on anything but bytes of their own length."""
    cpu, gpus = states["cpu"], list(states["cuda"])
    if cpu.shape != torch.get_rng_state().shape or {cpu.dtype, *(g.dtype for g in gpus)} != {
        torch.uint8
    }:
        raise ValueError("a random state of another kind")
    return {"cpu": cpu, "cuda": gpus}


def restore_generators(states: Mapping[str, Any]) -> None:
    """Put them back; those of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
