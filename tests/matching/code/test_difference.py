"""Networks that differ in one thing: it is named, with what either side has there."""

from __future__ import annotations

import pytest
import timm
import torch
from decoders import TOKENS, decoder
from torch import nn

import surgery

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MODERN = {"rows": "apart", "rotary": "halves", "gated": "apart", "norm": nn.RMSNorm, "groups": 2}

#: What is changed in the target, the operator that is named, and where in it.
DIFFERENT = {
    "the activation": ({}, {"activation": "tanh"}, "gelu", "think"),
    "another activation": ({}, {"activation": "relu"}, "relu", "think"),
    "the base of the rotation": (MODERN, {"base": 500000.0}, "mul", "look"),
    "the scale of attention": ({"rows": "apart"}, {"scale": 0.5}, "mul", "look"),
    "no causal mask": ({}, {"causal": False}, "_softmax", "look"),
    "norms behind": ({}, {"norm_first": False}, "mm", "look"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_first_difference_is_named(name):
    shared, change, operator, place = DIFFERENT[name]
    found = surgery.compare(decoder(**shared), decoder(**{**shared, **change}), inputs=TOKENS)
    assert not found.same
    assert found.proof is None
    assert found.difference is not None
    assert found.difference.operator == operator
    assert place in found.difference.target.module


def test_the_numbers_of_both_sides_are_given():
    models = decoder(rows="apart"), decoder(rows="apart", scale=0.5)
    found = surgery.compare(*models, inputs=TOKENS)
    ours, theirs = found.difference.values
    assert 0.5 in theirs
    assert any(abs(x - 8**-0.5) < 1e-12 for x in ours if isinstance(x, float))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_every_other_eps_is_listed_and_the_rest_is_proven(norm):
    models = decoder(norm=norm), decoder(norm=norm, eps=1e-3)
    found = surgery.compare(*models, inputs=TOKENS)
    assert found.same
    assert [(x.source_value, x.target_value) for x in found.scalars] == [(1e-5, 1e-3)] * 5
    assert len(found.mapping) == len(models[1].state_dict())


@pytest.mark.parametrize(
    ("one", "other", "operator"),
    [
        ("resnet18", "seresnet18", "mean"),
        ("resnet18", "resnet18d", "convolution"),
        ("resnet26", "resnet26t", "convolution"),
    ],
)
def test_networks_of_one_family_part_where_they_differ(one, other, operator):
    found = surgery.compare(timm.create_model(one), timm.create_model(other), inputs=IMAGE)
    assert not found.same
    assert found.difference.operator == operator


def test_up_to_the_difference_the_mapping_holds_and_nothing_behind_it():
    found = surgery.compare(decoder(depth=2), decoder(depth=3), inputs=TOKENS)
    assert not found.same
    assert found.mapping.keys() >= {"words.weight", "blocks.1.think.narrow.weight"}
    assert not any(name.startswith(("blocks.2", "last")) for name in found.mapping)
    assert all(match.source == name for name, match in found.mapping.items())


def test_the_norm_behind_the_last_block_is_not_the_first_of_another_block():
    found = surgery.compare(decoder(depth=3), decoder(depth=2), inputs=TOKENS)
    assert not found.same
    assert "last.weight" in found.open
    assert all(match.source == name for name, match in found.mapping.items())


def test_another_head_leaves_the_head_open_alone():
    class Headed(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16))
            self.head = nn.Linear(16, classes)

        def forward(self, x):
            return self.head(self.body(x))

    found = surgery.compare(Headed(10), Headed(7), inputs=torch.randn(4, 8))
    assert not found.same
    assert found.open.keys() == {"head.weight", "head.bias"}
    assert len(found.mapping) == 4


def test_a_comparison_is_a_report_and_json():
    found = surgery.compare(decoder(), decoder(activation="tanh"), inputs=TOKENS)
    assert "gelu" in str(found)
    data = found.to_dict()
    assert data["same"] is False
    assert data["difference"]["operator"] == "gelu"
    assert data["open"].keys() == found.open.keys()
    fused = surgery.compare(decoder(), decoder(rows="apart"), inputs=TOKENS).to_dict()["mapping"]
    assert fused["words.weight"]["recipe"] is None
    assert fused["blocks.0.look.to_q.weight"]["recipe"]
