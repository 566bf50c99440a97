import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc
from torch import nn

import surgery
from surgery.errors import SurgeryError
from surgery.specs import TensorSpec
from surgery.transfers import plan_transfer


def specs(**shapes):
    """Specs by name; two underscores stand for a dot."""
    return [TensorSpec(n.replace("__", "."), shape, "float32") for n, shape in shapes.items()]


PATCHES = {"patch_embed__proj__weight": (8, 3, 4, 4)}


def decided(old, new, name="pos_embed", resize="auto", **beside):
    """The step for an embedding of ``old`` tokens in a model that wants ``new``."""
    beside = beside or {"cls_token": (1, 1, 8)}
    sides = [specs(**{name: (1, count, 8)}, **PATCHES, **beside) for count in (old, new)]
    return plan_transfer(*sides, resize=resize).by_target[name]


@pytest.mark.parametrize(
    ("old", "new", "beside", "reason"),
    [
        pytest.param(
            197,
            577,
            {"cls_token": (1, 1, 8)},
            "14 x 14 grid to 24 x 24, bicubic, 1 prefix token kept; old and new assumed to be "
            "square",
            id="class-token",
        ),
        pytest.param(
            196,
            576,
            {"cls_token": (1, 1, 8)},
            "14 x 14 grid to 24 x 24, bicubic; old and new assumed to be square",
            id="no-embed-class",
        ),
        pytest.param(
            198,
            578,
            {"cls_token": (1, 1, 8), "dist_token": (1, 1, 8)},
            "14 x 14 grid to 24 x 24, bicubic, 2 prefix tokens kept; old and new assumed to be "
            "square",
            id="distilled",
        ),
        pytest.param(
            201,
            261,
            {"cls_token": (1, 1, 8), "reg_token": (1, 4, 8)},
            "14 x 14 grid to 16 x 16, bicubic, 5 prefix tokens kept; old and new assumed to be "
            "square",
            id="registers",
        ),
    ],
)
def test_prefix_tokens_are_those_that_the_model_has(old, new, beside, reason):
    step = decided(old, new, **beside)
    assert step.state == "resized"
    assert step.reason == reason
    assert step.method.reference == "timm.layers.resample_abs_pos_embed"


@pytest.mark.parametrize(
    ("old", "new", "beside", "why"),
    [
        pytest.param(
            197,
            393,
            {},
            "393 new places are no square grid beside 0 or 1 others",
            id="oblong-target",
        ),
        pytest.param(393, 197, {}, "393 old places are no square grid", id="oblong-source"),
        pytest.param(
            64,
            16,
            {"cls_token": (1, 15, 8)},
            "ambiguous: 8 x 8 beside 0 or 7 x 7 beside 15",
            id="two-squares",
        ),
        pytest.param(
            77,
            64,
            {"token_embedding__weight": (99, 8)},
            "no patch embedding of its width lies near",
            id="text",
        ),
    ],
)
def test_what_is_ambiguous_is_refused_and_said(old, new, beside, why):
    step = decided(old, new, **beside)
    assert step.state == "fresh"
    assert why in step.reason


def test_positions_of_text_are_no_grid_even_where_the_counts_are_squares():
    towers = {
        "visual__conv1__weight": (8, 3, 4, 4),
        "visual__positional_embedding": (17, 8),
        "visual__class_embedding": (8,),
        "token_embedding__weight": (99, 8),
    }
    old = specs(**towers, positional_embedding=(64, 8))
    new = specs(**towers | {"visual__positional_embedding": (50, 8)}, positional_embedding=(16, 8))
    plan = plan_transfer(old, new, resize="auto")
    assert plan.by_target["positional_embedding"].state == "fresh"
    vision = plan.by_target["visual.positional_embedding"]
    assert vision.state == "resized"
    assert vision.reason.startswith("4 x 4 grid to 7 x 7, bicubic, 1 prefix token kept")


def test_queries_are_no_positions():
    old, new = specs(query_embed=(1, 100, 8), **PATCHES), specs(query_embed=(1, 81, 8), **PATCHES)
    step = plan_transfer(old, new, resize="auto").by_target["query_embed"]
    assert step.reason == "shape differs: source (1, 100, 8), target (1, 81, 8)"


def small_vit(**settings):
    shape = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=2, **{**shape, **settings})


@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize("reg_tokens", [0, 4])
def test_a_resized_model_has_timms_values_to_the_bit(no_embed_class, reg_tokens):
    tokens = {"no_embed_class": no_embed_class, "reg_tokens": reg_tokens}
    source, model = small_vit(img_size=48, **tokens), small_vit(img_size=80, **tokens)
    outcome = surgery.transfer(source, model, resize="auto")
    assert outcome.resized == ("pos_embed",)
    prefix = 0 if no_embed_class else 1 + reg_tokens
    expected = resample_abs_pos_embed(source.pos_embed.detach(), [10, 10], None, prefix)
    assert torch.equal(model.pos_embed, expected)


def test_oblong_grids_by_their_settings():
    source, model = small_vit(img_size=(48, 80)), small_vit(img_size=(64, 32))
    asked = {"pos_embed": ("pos-embed", {"old": (6, 10), "new": (8, 4)})}
    surgery.transfer(source, model, resize=asked)
    expected = resample_abs_pos_embed(source.pos_embed.detach(), [8, 4], [6, 10], 1)
    assert torch.equal(model.pos_embed, expected)


def test_one_count_of_tokens_may_be_two_grids():
    """196 patches are 14 x 14, and 7 x 28 as well: the shapes agree and the images do not."""
    source, model = small_vit(img_size=112), small_vit(img_size=(56, 224))
    assert surgery.plan_transfer(source, model).by_target["pos_embed"].state == "loaded"
    surgery.transfer(source, model, resize=["pos_embed=pos-embed:new=7x28"])
    expected = resample_abs_pos_embed(source.pos_embed.detach(), [7, 28], [14, 14], 1)
    assert torch.equal(model.pos_embed, expected)


def test_its_own_size_leaves_it_unchanged():
    source, model = small_vit(img_size=48), small_vit(img_size=48)
    surgery.transfer(source, model, resize={"pos_embed": "pos-embed"})
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_a_distillation_token_is_dropped():
    old = specs(pos_embed=(1, 18, 8), cls_token=(1, 1, 8), dist_token=(1, 1, 8), **PATCHES)
    new = specs(pos_embed=(1, 17, 8), cls_token=(1, 1, 8), **PATCHES)
    step = plan_transfer(old, new, resize="auto").by_target["pos_embed"]
    assert "1 prefix token kept, 1 dropped" in step.reason
    values = torch.rand(1, 18, 8)
    model = nn.Module()
    model.pos_embed = nn.Parameter(torch.zeros(1, 17, 8))
    asked = {"pos_embed": ("pos-embed", {"prefix": 1})}
    with pytest.raises(SurgeryError, match="fits nothing"):
        surgery.transfer({"pos_embed": values}, model, resize=asked)


def test_float64_is_kept():
    """timm computes in float32; here the error against a computation in float64 is far below."""
    source, model = small_vit(img_size=48).double(), small_vit(img_size=80).double()
    surgery.transfer(source, model, resize="auto")
    positions = source.pos_embed.detach()
    square = positions[:, 1:].reshape(1, 6, 6, -1).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(square, (10, 10), mode="bicubic", antialias=True)
    wanted = torch.cat([positions[:, :1], wanted.flatten(2).mT], dim=1)
    torch.testing.assert_close(model.pos_embed.detach(), wanted, rtol=1e-13, atol=1e-16)


def test_maps_of_positions():
    old = specs(pos_embed=(1, 4, 6, 8), **PATCHES)
    new = specs(pos_embed=(1, 8, 9, 8), **PATCHES)
    step = plan_transfer(old, new, resize="auto").by_target["pos_embed"]
    assert step.method.reference == "timm.layers.resample_abs_pos_embed"
    values, model = torch.rand(1, 4, 6, 8), nn.Module()
    model.pos_embed = nn.Parameter(torch.zeros(1, 8, 9, 8))
    surgery.transfer({"pos_embed": values}, model, resize={"pos_embed": "pos-embed"})
    assert torch.equal(model.pos_embed, resample_abs_pos_embed_nhwc(values, [8, 9]))


def test_blocks_of_positions_are_no_map():
    old, new = specs(pos_embed=(1, 16, 9, 8), **PATCHES), specs(pos_embed=(1, 16, 4, 8), **PATCHES)
    step = plan_transfer(old, new, resize="auto").by_target["pos_embed"]
    assert "only one of its sides differs" in step.reason
