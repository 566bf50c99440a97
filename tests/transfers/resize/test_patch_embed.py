import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import nn

import surgery
from surgery.specs import TensorSpec
from surgery.transfers import plan_transfer

VIT = {"embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 2}


def small_vit(patch):
    name = "vit_tiny_patch16_224"
    return timm.create_model(name, img_size=8 * patch, patch_size=patch, **VIT)


@pytest.mark.parametrize(("old", "new"), [(16, 8), (8, 16), (8, 12)])
def test_the_values_are_timms_to_the_bit(old, new):
    source, model = small_vit(old), small_vit(new)
    outcome = surgery.transfer(source, model, resize="auto")
    assert outcome.resized == ("patch_embed.proj.weight",)
    expected = resample_patch_embed(source.patch_embed.proj.weight.detach(), [new, new])
    assert torch.equal(model.patch_embed.proj.weight, expected)


def test_resized_patches_give_what_the_patches_gave():
    """FlexiViT's equation 4, in float64: enlarged by a resize B, x' = B x, so <x', w'> = <x, w>."""
    source, model = small_vit(8).double(), small_vit(16).double()
    surgery.transfer(source, model, resize="auto")
    patch = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    larger = F.interpolate(patch, (16, 16), mode="bicubic", antialias=True)
    old, new = source.patch_embed.proj(patch), model.patch_embed.proj(larger)
    torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "patch_embed.proj.weight",
        "conv_proj.weight",
        "vit.embeddings.patch_embeddings.projection.weight",
        "vision_model.embeddings.patch_embedding.weight",
    ],
)
def test_names_of_several_libraries(name):
    sides = [[TensorSpec(name, (8, 3, size, size), "float32")] for size in (16, 32)]
    step = plan_transfer(*sides, resize="auto").by_target[name]
    assert step.state == "resized"
    assert step.method.name == "patch-embed"


def test_another_width_is_none_of_its_business():
    name = "patch_embed.proj.weight"
    sides = [[TensorSpec(name, (w, 3, p, p), "float32")] for w, p in ((8, 16), (6, 32))]
    step = plan_transfer(*sides, resize="auto").by_target[name]
    assert step.state == "fresh"
    assert "patch-embed: more than the patch size differs" in step.reason


def test_any_convolution_by_name():
    source, model = nn.Conv2d(3, 4, 4), nn.Conv2d(3, 4, 8)
    surgery.transfer(source, model, resize={"weight": "patch-embed"})
    assert torch.equal(model.weight, resample_patch_embed(source.weight.detach(), [8, 8]))
