"""What a resizer computes is no part of a proof, and the report says so."""

from __future__ import annotations

import json

import pytest
import timm
from tiny_models import TiedLanguageModel, TinyNet, randomise

import surgery
from surgery.errors import SurgeryError
from surgery.proof import refuse_unproven

ROWS = {"resize": ["fc.*=class-rows:0=0,1=2,2=4"]}


def verify(source, target, **settings):
    shape = settings.pop("shape", None)
    plan = surgery.plan_transfer(source, target, **settings)
    assert plan.names("resized")
    return surgery.verify_transfer(source, target, plan, shape=shape)


def vit(size: int):
    return timm.models.VisionTransformer(
        img_size=size,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=5,
        dynamic_img_size=True,
    )


def test_class_rows_leave_the_features_to_be_proven():
    proof = verify(randomise(TinyNet(5)), TinyNet(3), **ROWS)
    assert proof.holds
    assert proof.verdict == "the source and the target compute the same up to what is resized"
    assert proof.random.points[0].source == "features"
    assert proof.resized == (("fc.weight", "class-rows"), ("fc.bias", "class-rows"))
    assert "resized, so no part of the claim: fc.{weight,bias} (class-rows)" in str(proof)
    assert "not transferred in" not in str(proof)
    assert not {move.source for move in proof.movements} & {"fc.weight", "fc.bias"}
    assert json.loads(json.dumps(proof.to_dict()))["resized"][0] == ["fc.weight", "class-rows"]


def test_a_swap_before_resized_rows_is_found():
    swapped = {"^bn.weight$": "bn.bias", "^bn.bias$": "bn.weight"}
    proof = verify(randomise(TinyNet(5)), TinyNet(3), mapping=swapped, **ROWS)
    assert {m.source: m.acts_as for m in proof.movements if m.acts_as} == {
        "bn.weight": ("bn.bias",),
        "bn.bias": ("bn.weight",),
    }


def test_what_comes_after_a_resized_tensor_is_not_called_proven():
    proof = verify(vit(32), vit(64), resize="auto")
    assert not proof.holds
    assert {move.source for move in proof.moved} == {
        "cls_token",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }
    assert "head.weight" in {move.source for move in proof.behind}
    assert "act only on what cannot be compared" in str(proof)
    assert "no part of the claim: pos_embed (pos-embed)" in str(proof)


def test_nothing_is_left_to_compare():
    source = randomise(TiedLanguageModel(11))
    proof = verify(source, TiedLanguageModel(14), resize="auto")
    assert not proof.holds
    assert proof.verdict == "nothing that the two networks give can be compared"
    with pytest.raises(SurgeryError, match="nothing that the two networks give") as error:
        refuse_unproven(proof)
    assert error.value.exit_code == 1


def test_another_width_proves_nothing():
    assert not verify(randomise(TinyNet()), TinyNet(width=4), resize="auto").holds


def test_another_number_of_input_channels_has_no_common_input():
    one, other = (timm.create_model("test_efficientnet", in_chans=channels) for channels in (3, 1))
    with pytest.raises(SurgeryError, match=r"conv_stem\.weight is resized \(input-channels\)"):
        verify(one, other, resize="auto")
