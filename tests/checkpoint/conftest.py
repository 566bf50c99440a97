"""Small real files, and tensors that no default value resembles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from surgery.checkpoint import open_checkpoint
from surgery.errors import CheckpointError


@pytest.fixture
def fixtures() -> Path:
    return Path(__file__).parents[2] / "fixtures" / "checkpoints"


@pytest.fixture
def state() -> OrderedDict[str, torch.Tensor]:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model.state_dict()


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Open a file that must be refused, and give the whole message."""

    def open_and_fail(path: Path, key: str | None = None) -> str:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path, key=key)
        assert "\n" not in caught.value.message
        assert path.name in caught.value.message
        return str(caught.value)

    return open_and_fail
