import pytest
import timm
import torch
from tiny_models import TinyNet, randomise
from torch import nn

import surgery
from surgery.transfers import plan_transfer


def uniform(weight, shape):
    """Xu et al. 2024, section 3: evenly spaced indices on every axis."""
    for axis, size in enumerate(shape):
        old = weight.shape[axis]
        if old % size == 0:
            indices = torch.arange(size) * (old // size)
        else:
            indices = torch.linspace(0, old - 1, size, dtype=torch.float64).round().long()
        weight = weight.index_select(axis, indices)
    return weight


@pytest.mark.parametrize("new", [4, 6, 7, 1])
def test_every_tensor_but_the_head_is_selected_from(new):
    source, model = randomise(TinyNet(5, width=8)), TinyNet(3, width=new)
    outcome = surgery.transfer(source, model, resize="auto", min_loaded=0)
    assert set(outcome.fresh) == {"fc.weight", "fc.bias"}
    assert not [name for name in outcome.loaded if not name.endswith("num_batches_tracked")]
    for name in outcome.resized:
        value = model.state_dict()[name]
        assert torch.equal(value, uniform(source.state_dict()[name], value.shape))


def test_a_head_of_the_same_classes_keeps_them_all():
    source, model = randomise(TinyNet(5, width=8)), TinyNet(5, width=4)
    surgery.transfer(source, model, resize="auto")
    assert torch.equal(model.fc.weight, source.fc.weight[:, ::2])
    assert torch.equal(model.fc.bias, source.fc.bias)


def test_channels_are_consistent_from_tensor_to_tensor():
    """A wide network that reads only what is kept gives what the narrow one gives."""
    source, model = randomise(TinyNet(5, width=9)).double().eval(), TinyNet(5, width=4).double()
    kept = torch.linspace(0, 8, 4, dtype=torch.float64).round().long()
    dropped = torch.ones(9, dtype=torch.bool).index_fill(0, kept, False)
    with torch.no_grad():
        source.fc.weight[:, dropped] = 0
        for block in source.blocks:
            block[0].weight[:, dropped] = 0
    surgery.transfer(source, model, resize="auto")
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(images), source(images), rtol=1e-12, atol=0)


def test_a_transformer_and_the_parts_of_its_qkv():
    build = {"patch_size": 8, "img_size": 16, "depth": 1, "num_classes": 2}
    wide = timm.create_model("vit_tiny_patch16_224", embed_dim=16, num_heads=4, **build)
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=12, num_heads=3, **build)
    outcome = surgery.transfer(randomise(wide), model, resize="auto")
    assert not outcome.fresh
    attention, old = model.blocks[0].attn, wide.blocks[0].attn
    for new_part, old_part in zip(attention.qkv.weight.chunk(3), old.qkv.weight.chunk(3)):  # noqa: B905
        assert torch.equal(new_part, uniform(old_part, (12, 12)))
    assert torch.equal(model.pos_embed, uniform(wide.pos_embed, model.pos_embed.shape))


def test_growth_is_refused():
    step = plan_transfer(TinyNet(width=4), TinyNet(width=8), resize="auto")
    assert "this one grows" in step.by_target["bn.weight"].reason


def test_a_single_layer_has_no_width_unless_it_is_chosen():
    source, model = nn.Linear(4, 8), nn.Linear(4, 2)
    plan = plan_transfer(source, model, resize="auto")
    assert plan.by_target["weight"].state == "fresh"
    surgery.transfer(source, model, resize={"**": "width"})
    assert torch.equal(model.weight, source.weight[::4])


def test_classes_are_not_selected_from_even_where_everything_was_meant():
    source, model = TinyNet(6, width=8), TinyNet(3, width=4)
    outcome = surgery.transfer(source, model, resize={"**": "width"}, min_loaded=0)
    assert outcome.fresh == ("fc.weight", "fc.bias")


def test_classes_whose_number_is_a_width_by_chance():
    source, model = TinyNet(8, width=8), TinyNet(4, width=4)
    outcome = surgery.transfer(source, model, resize="auto", min_loaded=0)
    assert outcome.fresh == ("fc.weight", "fc.bias")
    assert "may be classes" in outcome.plan.by_target["fc.bias"].reason
