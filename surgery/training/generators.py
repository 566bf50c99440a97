"""The states of torch's random generators: the CPU's and, once in use, those of the GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def generator_states() -> dict[str, Any]:
    """The states as uint8 tensors. GPUs are not woken up to be asked."""
    import torch

    states: dict[str, Any] = {"cpu": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_generators(states: Mapping[str, Any]) -> None:
    """Put them back; those of GPUs that are not here are left out."""
    import torch

    torch.set_rng_state(states["cpu"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
