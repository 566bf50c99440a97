"""One network from two libraries, both ways: from names and shapes alone to equal outputs."""

from __future__ import annotations

import pytest
import torch
from two_implementations import (
    SMALLER,
    difference,
    load,
    matched,
    matched_unbuilt,
    randomised,
    smaller,
    unbuilt,
    unloaded,
    with_eps,
)

#: Two implementations, the size of the pictures, and what the second has no source for.
PAIRS = [
    ("tv:vgg16_bn", "timm:vgg16_bn", 32),
    ("tv:mobilenet_v2", "timm:mobilenetv2_100", 32),
    ("tv:mobilenet_v3_large", "timm:mobilenetv3_large_100", 32),
    ("tv:efficientnet_b0", "timm:efficientnet_b0", 32),
    ("tv:efficientnet_v2_s", "timm:efficientnetv2_s", 32),
    ("tv:mnasnet1_0", "timm:mnasnet_100", 32),
    ("tv:convnext_tiny", "timm:convnext_tiny", 32),
    ("tv:regnet_y_400mf", "timm:regnety_004", 32),
    ("tv:swin_t", "timm:swin_tiny_patch4_window7_224", 224),
    ("tv:swin_v2_t", "timm:swinv2_tiny_window8_256", 256),
    ("tv:vit_b_32", "timm:vit_base_patch32_224", 64),
    ("tv:inception_v3", "timm:inception_v3", 80),
    ("hf:vit", "timm:vit_base_patch16_224", 64),
    ("hf:resnet", "timm:resnet50", 32),
    ("hf:regnet", "timm:regnety_004", 32),
    ("hf:convnext", "timm:convnext_tiny", 32),
    ("hf:swin", "timm:swin_tiny_patch4_window7_224", 224),
    # Pairs that the method was not worked out on.
    ("tv:resnet18", "hf:resnet18", 32),
    ("tv:densenet121", "timm:densenet121", 32),
    ("hf:swinv2", "tv:swin_v2_t", 256),
    ("hf:regnet", "tv:regnet_y_400mf", 32),
    ("hf:mobilenetv2", "timm:mobilenetv2_100", 32),
    ("hf:beit", "timm:beit_base_patch16_224", 64),
    ("hf:deit", "timm:deit_base_distilled_patch16_224", 64),
    ("hf:hiera", "timm:hiera_tiny_224", 224),
    ("hf:mobilevitv2", "timm:mobilevitv2_050", 64),
]
#: What a target has and its source has not: inception's auxiliary head.
OPEN = {("timm:inception_v3", "tv:inception_v3"): "AuxLogits."}


@pytest.mark.parametrize(("one", "other", "size"), PAIRS, ids=lambda value: str(value))
def test_both_ways_to_equal_outputs(one, other, size):
    models = {name: with_eps(smaller(name)) for name in (one, other)}
    picture = torch.randn(1, 3, size, size, dtype=torch.float64)
    for source_name, target_name in ((one, other), (other, one)):
        source = randomised(models[source_name].float(), seed=1)
        target = randomised(models[target_name].float(), seed=2)
        match = matched(source, target)
        missing = unloaded(match, target)
        load(match, source.state_dict(), target)
        prefix = OPEN.get((source_name, target_name))
        assert all(prefix and name.startswith(prefix) for name in missing), missing
        assert difference(source, target, picture) < 1e-9


@pytest.mark.parametrize(
    ("one", "other"), [pair[:2] for pair in PAIRS[:17] if {*pair[:2]} <= SMALLER.keys()]
)
def test_in_full_size_every_parameter_has_its_source_too(one, other):
    models = {name: unbuilt(name) for name in (one, other)}
    for source, target in ((one, other), (other, one)):
        match = matched_unbuilt(models[source], models[target])
        assert not unloaded(match, models[target])
