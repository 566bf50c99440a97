"""Every torchvision classifier and one of every timm family takes back its own weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from zoo import TORCHVISION, smallest

import surgery
from surgery.networks.deferred import DeferredInit

#: Random numbers that stand in for any checkpoint: tensors are windows on them, so that the
#: largest architectures cost a copy and no generator.
POOL = torch.rand(110_000_000, generator=torch.Generator().manual_seed(0))


def invented(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict in the model's shapes, all values its own, below nested wrappers.

    Tied tensors (CoaT has some) stay tied.
    """
    starts = itertools.count(0, 7)
    values: dict[int, torch.Tensor] = {}
    source = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in values:
            values[id(tensor)] = _window(next(starts), tensor)
        source[f"module._orig_mod.{name}"] = values[id(tensor)]
    return source


def _window(start: int, like: torch.Tensor) -> torch.Tensor:
    values = POOL[start : start + like.numel()].view(like.shape)
    return values if like.dtype == torch.float32 else (values * 100).to(like.dtype)


def assert_takes_back(make: Callable[[], nn.Module]) -> None:
    with DeferredInit():  # every tensor is about to be loaded
        model = make()
    source = invented(model)
    outcome = surgery.transfer(source, model, strict=True)
    assert outcome.loaded_fraction == 1.0
    assert not outcome.fresh
    assert not outcome.unused
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source[f"module._orig_mod.{name}"]), name


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_torchvision(name: str) -> None:
    assert_takes_back(lambda: torchvision.models.get_model(name))


@pytest.mark.parametrize("family", timm.list_modules())
def test_timm(family: str) -> None:
    assert_takes_back(lambda: timm.create_model(smallest(family)))
