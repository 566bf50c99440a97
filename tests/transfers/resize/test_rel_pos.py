import pytest
import timm
import torch
from timm.layers import resize_rel_pos_bias_table, resize_rel_pos_bias_table_levit
from torch import nn

import surgery
from surgery.specs import TensorSpec
from surgery.transfers import plan_transfer

# timm's own function, called as it is, makes torch warn of its indices.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using a non-tuple sequence:UserWarning", "ignore:torch.searchsorted:UserWarning"
)

NAME = "attn.relative_position_bias_table"


def table(*shape, name=NAME):
    return [TensorSpec(name, shape, "float32"), TensorSpec("w", (9,), "float32")]


def holder(*shape):
    """A module with one table of random values, under the usual name."""
    model = nn.Module()
    model.attn = nn.Module()
    model.attn.relative_position_bias_table = nn.Parameter(torch.randn(shape))
    return model


def resized(old, new, settings=None):
    source, model = holder(*old), holder(*new)
    wanted = {NAME: ("rel-pos", settings)} if settings else "auto"
    surgery.transfer(source, model, resize=wanted)
    values = source.attn.relative_position_bias_table.detach()
    return values, model.attn.relative_position_bias_table.detach()


@pytest.mark.parametrize(
    ("old", "new", "window"),
    [
        pytest.param((169, 3), (529, 3), (12, 12), id="swin"),
        pytest.param((529, 3), (169, 3), (7, 7), id="swin-smaller"),
        pytest.param((172, 3), (532, 3), (12, 12), id="class-token"),
        pytest.param((2, 13, 13), (2, 15, 31), (8, 16), id="map"),
    ],
)
def test_the_values_are_timms_to_the_bit(old, new, window):
    values, result = resized(old, new)
    assert torch.equal(result, resize_rel_pos_bias_table(values, window, new))


def test_oblong_windows_by_their_settings():
    values, result = resized((13 * 27, 3), (15 * 31, 3), {"old": "7x14", "new": "8x16"})
    expected = resize_rel_pos_bias_table(values, (8, 16), (15 * 31, 3), old_window_size=(7, 14))
    assert torch.equal(result, expected)


@pytest.mark.filterwarnings("error")
def test_the_user_is_not_warned_of_what_timm_does():
    resized((169, 3), (225, 3))


def test_its_own_window_leaves_it_unchanged():
    values, result = resized((169, 3), (169, 3), {"old": "7x7"})
    assert torch.equal(result, values)


def test_a_swin_of_another_window():
    build = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "num_classes": 2}
    name = "swin_tiny_patch4_window7_224"
    source = timm.create_model(name, img_size=56, window_size=7, **build)
    model = timm.create_model(name, img_size=64, window_size=8, **build)
    outcome = surgery.transfer(source, model, resize="auto")
    assert len(outcome.resized) == 2
    assert not outcome.fresh
    for path in ("layers.0.blocks.0.attn", "layers.1.blocks.0.attn"):
        old, new = (m.get_submodule(path).relative_position_bias_table for m in (source, model))
        assert torch.equal(new, resize_rel_pos_bias_table(old.detach(), (8, 8), new.shape))


def test_absolute_offsets_after_levit():
    name = "attention_biases"
    source, model = nn.Module(), nn.Module()
    source.attention_biases = nn.Parameter(torch.randn(4, 49))
    model.attention_biases = nn.Parameter(torch.randn(4, 196))
    outcome = surgery.transfer(source, model, resize="auto")
    assert "resize_rel_pos_bias_table_levit" in outcome.plan.by_target[name].method.reference
    expected = resize_rel_pos_bias_table_levit(source.attention_biases.detach().T, (196, 4)).T
    assert torch.equal(model.attention_biases, expected)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        pytest.param((13 * 27, 3), (169, 3), "351 old places are no square grid", id="oblong"),
        pytest.param(
            (172, 3), (529, 3), "one of the tables has no rows of a class token", id="class-token"
        ),
        pytest.param((169, 3), (169, 6), "another number of heads", id="heads"),
    ],
)
def test_what_cannot_be_told_is_refused(old, new, why):
    step = plan_transfer(table(*old), table(*new), resize="auto").by_target[NAME]
    assert step.state == "fresh"
    assert why in step.reason


def test_the_plan_says_what_was_assumed():
    plan = plan_transfer(table(172, 3), table(532, 3), resize="auto")
    step = plan.by_target[NAME]
    assert step.state == "resized"
    assert step.reason == (
        "7 x 7 window to 12 x 12, 3 rows of the class token kept; old and new assumed to be square"
    )


def test_float64_is_kept():
    """A third is not the same in float32."""
    source, model = holder(25, 1).double(), holder(81, 1).double()
    with torch.no_grad():
        source.attn.relative_position_bias_table.fill_(1 / 3)
    surgery.transfer(source, model, resize="auto")
    result = model.attn.relative_position_bias_table.detach()
    torch.testing.assert_close(result, torch.full_like(result, 1 / 3), rtol=1e-15, atol=0)
