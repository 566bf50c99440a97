"""Every torchvision classifier, and the smallest of every timm family.

On the meta device: shapes come out and gradients arrive, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from zoo import TORCHVISION, smallest

from surgery.errors import HeadError
from surgery.head_names import heads_by_name
from surgery.heads import HeadSwap, head_paths, replace_head
from surgery.networks.describe import describe

#: Families with models that only encode. ``encoder`` is one: there is no head to find.
ENCODERS = {
    "deepseek_vit": "deepseek_vit_412m_enc",
    "gemma4_vit": "gemma4_vit_167m_enc",
    "qwen3_vit": "qwen3_vit_88m_enc",
}

#: An LSTM on the meta device takes 20 times as long as on the processor.
ON_CPU = {"sequencer"}


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in model.state_dict().items()]


def tensors(output: Any) -> list[torch.Tensor]:
    """The floating tensors of an output, whatever it is nested in."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = output.values()
    return [t for part in output for t in tensors(part)] if isinstance(output, Iterable) else []


def assert_trains(model: nn.Module, swap: HeadSwap, x: torch.Tensor) -> None:
    """(N, 10) in evaluation, and gradients on each new layer: of auxiliary ones in training."""
    helped = any(layer.auxiliary for layer in swap.layers)
    with x.device:
        evaluated = tensors(model.eval()(x))
        trained = tensors(model.train()(x)) if helped else evaluated
    assert evaluated[0].shape == (len(x), 10)
    sum(tensor.sum() for tensor in trained).backward()
    for layer in swap.layers:
        weight = model.get_submodule(layer.path).weight
        assert weight.shape[0] == 10
        assert weight.grad is not None, layer.path


# --- timm ---------------------------------------------------------------------------------------


#: Where names and shapes leave doubt: several heads side by side, a head of an inner layer's shape.
UNNAMED = {"crossvit", "efficientvim", "inception_resnet_v2", "vitamin"}


def assert_named(model: nn.Module, expected: tuple[str, ...]) -> None:
    """By names and shapes alone the same layers are found as in the live model."""
    spec = describe(model)
    assert heads_by_name(spec.tensors, spec.ties) == expected


def timm_model(family: str, **arguments: Any) -> Any:
    with torch.device("cpu" if family in ON_CPU else "meta"):
        return timm.create_model(smallest(family), **arguments)


def timm_input(model: Any) -> torch.Tensor:
    device = next(model.parameters()).device
    return torch.zeros(2, *model.pretrained_cfg["input_size"], device=device)


@pytest.mark.parametrize("family", timm.list_modules())
def test_timm_families(family: str) -> None:
    model = timm_model(family)
    assert_named(model, () if family in UNNAMED else head_paths(model))
    swap = replace_head(model, 10)
    assert swap.how == "timm"
    assert model.num_classes == 10
    assert shapes(model) == shapes(timm_model(family, num_classes=10))
    x = timm_input(model)
    assert_trains(model, swap, x)

    replace_head(model, 0)
    with x.device, torch.no_grad():
        features = model.eval()(x)
    assert features.shape in ((2, model.num_features), (2, model.head_hidden_size))


@pytest.mark.parametrize("family", ENCODERS)
def test_timm_encoders_have_no_head(family: str) -> None:
    if ENCODERS[family] not in timm.list_models(module=family):
        pytest.skip(f"this timm has no {ENCODERS[family]}")
    with torch.device("meta"):
        model = timm.create_model(ENCODERS[family])
    with pytest.raises(HeadError):
        replace_head(model, 10)


def test_a_pair_that_timm_does_not_list() -> None:
    with torch.device("meta"):
        model = timm.create_model("levit_384_s8")
    swap = replace_head(model, 10)
    assert [layer.path for layer in swap.layers] == ["head.linear", "head_dist.linear"]


def test_timm_inception_with_its_auxiliary_head() -> None:
    with torch.device("meta"):
        model = timm.create_model("inception_v3", aux_logits=True)
    swap = replace_head(model, 10)
    assert [(layer.path, layer.auxiliary) for layer in swap.layers] == [
        ("fc", False),
        ("AuxLogits.fc", True),
    ]
    assert_trains(model, swap, timm_input(model))


# --- torchvision --------------------------------------------------------------------------------


@pytest.fixture
def parameters_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory without values for models that compute with tensors while they are being built,
    which RegNets do and the meta device cannot.
    """
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, value: nn.Parameter | None) -> None:
        register(self, name, None if value is None else nn.Parameter(value.to("meta")))

    monkeypatch.setattr(nn.Module, "register_parameter", register_on_meta)


def torchvision_model(name: str, **arguments: Any) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = False  # not stating it is a FutureWarning
    return torchvision.models.get_model(name, **arguments).to("meta")


@pytest.mark.usefixtures("parameters_on_meta")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    model = torchvision_model(name)
    assert_named(model, head_paths(model))
    swap = replace_head(model, 10)
    assert swap.how == "the model's output"
    assert shapes(model) == shapes(torchvision_model(name, num_classes=10))
    size = 299 if name == "inception_v3" else 224
    x = torch.zeros(2, 3, size, size, device="meta")
    assert_trains(model, swap, x)


@pytest.mark.parametrize(
    "name", ["alexnet", "convnext_tiny", "googlenet", "resnet18", "squeezenet1_1", "vit_b_32"]
)
def test_torchvision_features(name: str) -> None:
    model = torchvision_model(name)
    swap = replace_head(model, 0)
    assert model.eval()(torch.zeros(2, 3, 224, 224, device="meta")).shape == (
        2,
        swap.layers[0].in_features,
    )


def test_torchvision_auxiliary_heads() -> None:
    found = {
        name: [layer.path for layer in replace_head(torchvision_model(name), 10).layers]
        for name in ("googlenet", "inception_v3")
    }
    assert found == {
        "googlenet": ["fc", "aux1.fc2", "aux2.fc2"],
        "inception_v3": ["fc", "AuxLogits.fc"],
    }


def test_torchvision_segmentation() -> None:
    model = torchvision.models.get_model(
        "fcn_resnet50", aux_loss=True, weights=None, weights_backbone=None
    )
    swap = replace_head(model, 10)
    assert [(layer.path, layer.auxiliary) for layer in swap.layers] == [
        ("classifier.4", False),
        ("aux_classifier.4", True),
    ]
