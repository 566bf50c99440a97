import pytest
import timm
import torch
from tiny_models import Wrapper, randomise
from torch import nn

import surgery
from surgery.errors import SurgeryError
from surgery.transfers import plan_transfer
from surgery.transfers.resize.depth import layers_from


def tower(depth, width=4):
    layers = [nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(depth)]
    return nn.ModuleDict({"stem": nn.Linear(3, width), "blocks": nn.ModuleList(layers)})


def layers_taken(outcome):
    """Target layer to source layer, as the plan has it."""
    taken = {}
    for step in outcome.plan.steps:
        if step.target.name.endswith("0.weight") and step.state != "fresh":
            taken[int(step.target.name.split(".")[1])] = int(step.source.name.split(".")[-3])
    return taken


@pytest.mark.parametrize(
    ("how", "old", "new", "expected"),
    [
        ("uniform", 12, 6, (0, 2, 4, 7, 9, 11)),
        ("uniform", 12, 1, (0,)),
        ("uniform", 3, 6, (0, 0, 1, 1, 2, 2)),
        ("uniform", 1, 3, (0, 0, 0)),
        ("stack", 3, 6, (0, 1, 2, 0, 1, 2)),
        ("stack", 3, 5, (0, 1, 2, 0, 1)),
    ],
)
def test_layers(how, old, new, expected):
    assert layers_from(how, old, new) == expected


@pytest.mark.parametrize(("old", "new"), [(12, 7), (24, 12), (9, 4), (6, 6)])
def test_uniform_is_the_rounded_linspace(old, new):
    linspace = torch.linspace(0, old - 1, new, dtype=torch.float64).round().long()
    assert layers_from("uniform", old, new) == tuple(linspace.tolist())


@pytest.mark.parametrize("how", ["uniform", "stack"])
@pytest.mark.parametrize(("old", "new"), [(6, 3), (3, 6)])
def test_every_layer_has_the_values_of_its_source(how, old, new):
    source, model = randomise(tower(old)), tower(new)
    outcome = surgery.transfer(source, model, resize=[f"blocks=depth:how={how}"])
    given = layers_from(how, old, new)
    assert layers_taken(outcome) == dict(enumerate(given))
    assert not outcome.fresh
    for layer, origin in enumerate(given):
        for name, value in model["blocks"][layer].state_dict().items():
            assert torch.equal(value, source["blocks"][origin].state_dict()[name])


def test_the_plan_says_which_layer():
    plan = plan_transfer(tower(3), tower(6), resize=["blocks=depth:how=stack"])
    assert plan.by_target["blocks.2.0.weight"].state == "loaded"
    step = plan.by_target["blocks.4.0.weight"]
    assert step.state == "resized"
    assert step.source.name == "blocks.1.0.weight"
    assert step.reason == "stack, 3 layers to 6, layer 1 of the source"
    assert "Gong" in step.method.reference
    counter = plan.by_target["blocks.4.1.num_batches_tracked"]
    assert counter.state == "loaded"


def test_below_a_wrapper_and_with_another_width():
    source, model = randomise(tower(6, width=8)), tower(3, width=4)
    outcome = surgery.transfer(Wrapper(source), model, resize=["auto", "blocks=depth"])
    assert layers_taken(outcome) == {0: 0, 1: 2, 2: 5}
    assert torch.equal(model["blocks"][1][0].weight, source["blocks"][2][0].weight[::2, ::2])


def test_a_transformer_of_half_the_depth():
    build = {"patch_size": 8, "img_size": 16, "embed_dim": 12, "num_heads": 2, "num_classes": 2}
    source = timm.create_model("vit_tiny_patch16_224", depth=6, **build)
    model = timm.create_model("vit_tiny_patch16_224", depth=3, **build)
    outcome = surgery.transfer(source, model, resize={"blocks": "depth"}, min_loaded=1)
    assert torch.equal(model.blocks[2].attn.qkv.weight, source.blocks[5].attn.qkv.weight)
    assert len(outcome.unused) == len(source.blocks[0].state_dict()) * 3
    assert {unused.reason for unused in outcome.plan.unused} == {
        "in a layer that was left out, as asked"
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("blokcs=depth", "no numbered layers in blokcs; did you mean blocks?"),
        ("stem=depth", "no numbered layers in stem"),
        ("blocks=depth:how=up", "how='up' is none of uniform, stack"),
    ],
)
def test_layers_that_are_not_there(asked, message):
    with pytest.raises(SurgeryError) as caught:
        plan_transfer(tower(3), tower(6), resize=[asked])
    assert message in str(caught.value)


def test_a_source_without_these_layers():
    with pytest.raises(SurgeryError, match="no numbered layers that match the target's blocks"):
        plan_transfer({"x": torch.ones(2)}, tower(2), resize=["blocks=depth"])
