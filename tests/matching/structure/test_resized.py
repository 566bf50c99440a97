"""Layers of another size: said, tensor by tensor, and never loaded."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from two_implementations import matched, matched_unbuilt

from surgery.matching.structure import match_structure
from surgery.specs import ModelSpec, SourceSpec, TensorSpec

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def vit(**config):
    settings = {**SMALL, "intermediate_size": 128, "image_size": 64, "num_labels": 10, **config}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**settings))


def timm_vit(**options):
    sizes = {"embed_dim": 32, "num_heads": 2, "depth": 2, "img_size": 96, "num_classes": 7}
    return timm.create_model("vit_base_patch16_224", **{**sizes, **options})


def counterparts(match):
    return {pair.target.name: pair.source.name for pair in match.resized}


def test_positions_heads_and_stems_of_a_vision_transformer():
    match = matched(vit(), timm_vit(in_chans=1))
    assert counterparts(match) == {
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "vit.embeddings.patch_embeddings.projection.bias",
        "head.weight": "classifier.weight",
        "head.bias": "classifier.bias",
    }
    steps = {step.target.name for step in match.steps}
    assert not steps & {*counterparts(match)}
    assert {*counterparts(match)} == {*match.without_source}
    assert "of another size: pos_embed (1, 37, 32) and vit.embeddings.pos" in str(match)


def test_nothing_is_resized_where_nothing_is_left():
    assert matched(vit(), timm_vit(img_size=64, num_classes=10)).resized == ()


@pytest.mark.parametrize(
    ("model", "stem", "head"),
    [
        ("resnet18", "conv1.weight", "fc"),
        ("mobilenetv3_small_050", "conv_stem.weight", "classifier"),
        ("vgg11", "features.0.weight", "head.fc"),
    ],
)
def test_stems_over_grey_pictures_and_heads_of_convolutional_networks(model, stem, head):
    with torch.device("meta"):
        source = timm.create_model(model)
        target = timm.create_model(model, in_chans=1, num_classes=7)
    found = counterparts(matched_unbuilt(source, target))
    assert found[stem] == stem
    assert found[f"{head}.weight"] == f"{head}.weight"


def test_tables_of_relative_positions_block_by_block():
    def swin(**config):
        return transformers.SwinForImageClassification(
            transformers.SwinConfig(embed_dim=12, depths=[2, 2], num_heads=[2, 4], **config)
        )

    found = counterparts(matched(swin(window_size=7), swin(window_size=4)))
    tables = {name for name in found if name.endswith("relative_position_bias_table")}
    assert len(tables) == 4
    assert all(found[name] == name for name in tables)


def test_vocabularies_and_positions_of_language_models():
    more = {"intermediate_size": 64, "pad_token_id": 0}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=99, **SMALL, **more))
    roberta = transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=77, max_position_embeddings=50, type_vocab_size=1, **SMALL, **more
        )
    )
    assert counterparts(matched(bert, roberta)) == {
        f"embeddings.{name}_embeddings.weight": f"embeddings.{name}_embeddings.weight"
        for name in ("word", "token_type", "position")
    }


def specs(**shapes):
    return tuple(TensorSpec(name.replace("__", "."), s, "float32") for name, s in shapes.items())


def plan(source, target):
    return match_structure(SourceSpec(source), ModelSpec.from_tensors(target))


BODY = {"body__weight": (8, 6), "body__bias": (8,), "mix__weight": (6, 8), "norm__weight": (5,)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # Two heads, and nothing says which.
        ({"fc__weight": (9, 8), "head__weight": (9, 8)}, {"classifier__weight": (4, 8)}),
        # Another rank, another form, no word at all, another thing.
        ({"pos_embed": (1, 9, 8)}, {"position_embedding": (1, 8, 5, 5)}),
        ({"head__weight": (9, 8), "head__bias": (9,)}, {"classifier__weight": (4, 8)}),
        ({"kalomi__weight": (9, 8)}, {"zivy__weight": (4, 8)}),
        ({"pos_embed": (1, 9, 8)}, {"head__weight": (4, 8)}),
    ],
)
def test_what_is_in_doubt_is_left_out(ours, theirs):
    assert plan(specs(**BODY, **ours), specs(**BODY, **theirs)).resized == ()


def test_a_grey_stem_is_not_taken_for_a_depthwise_kernel():
    """transformers' MobileNetV2 holds its first depthwise kernel in the stem."""
    settings = {"num_labels": 1000, "tf_padding": False, "depth_multiplier": 0.35}
    source = transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(**settings, finegrained_output=True)
    )
    match = matched(source, timm.create_model("mobilenetv2_035", in_chans=1))
    assert "conv_stem.weight" not in {step.target.name for step in match.steps}
