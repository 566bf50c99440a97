"""What timm's own loading makes of a checkpoint for another image size, bit for bit."""

import importlib

import pytest
import timm
import torch
from tiny_models import randomise

import surgery

CASES = [
    pytest.param("vit_tiny_patch16_224", {}, {"img_size": 160}, id="vit"),
    pytest.param(
        "vit_small_patch14_reg4_dinov2", {"img_size": 112}, {"img_size": 224}, id="registers"
    ),
    pytest.param(
        "vit_small_patch14_dinov2",
        {"img_size": 112},
        {"img_size": 224, "patch_size": 16},
        id="patches-too",
    ),
    pytest.param("deit_tiny_distilled_patch16_224", {}, {"img_size": 320}, id="distilled"),
    pytest.param(
        "swin_tiny_patch4_window7_224", {}, {"img_size": 256, "window_size": 8}, id="swin"
    ),
    pytest.param("coatnet_0_rw_224", {}, {"img_size": 384}, id="coatnet"),
    pytest.param("eva02_tiny_patch14_224", {}, {"img_size": 336}, id="eva"),
]


@pytest.mark.filterwarnings("ignore:Using a non-tuple:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")
@pytest.mark.parametrize(("name", "old", "new"), CASES)
def test_resized_as_timm_would(name, old, new):
    source = randomise(timm.create_model(name, num_classes=10, **old))
    model = timm.create_model(name, num_classes=10, **new)
    outcome = surgery.transfer(source, model, resize="auto")
    assert outcome.resized
    assert all(step.recomputed for step in outcome.plan.steps if step.state == "fresh")
    copies = {name: value.clone() for name, value in source.state_dict().items()}
    module = importlib.import_module(type(model).__module__)
    expected = module.checkpoint_filter_fn(copies, model)
    for name in outcome.resized:
        assert torch.equal(model.state_dict()[name], expected[name]), name
