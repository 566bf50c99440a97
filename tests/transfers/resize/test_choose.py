"""Resizers in plans, in live models and in files: what holds for all of them."""

import json

import pytest
import timm
import torch
from tiny_models import randomise, same_bits, snapshot

import surgery
from surgery.errors import SurgeryError, TransferRefused
from surgery.specs import TensorSpec
from surgery.transfers import plan_transfer, transfer
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest

VIT = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 2}
NEW = {**VIT, "img_size": 64, "in_chans": 1}


def small_vit(**settings):
    return timm.create_model("vit_tiny_patch16_224", **{**VIT, "img_size": 48, **settings})


def test_nothing_is_resized_by_itself():
    plan = plan_transfer(small_vit(), small_vit(**NEW))
    assert plan.names("resized") == ()
    assert plan.names("fresh") == ("pos_embed", "patch_embed.proj.weight")


def test_auto_resizes_what_has_another_shape():
    plan = plan_transfer(small_vit(), small_vit(**NEW), resize="auto")
    assert plan.names("resized") == ("pos_embed", "patch_embed.proj.weight")
    rows = json.loads(json.dumps(plan.to_dict()))["steps"]
    methods = [row["method"]["name"] for row in rows if "method" in row]
    assert methods == ["pos-embed", "input-channels"]
    assert plan.loaded_fraction == 1.0
    assert not plan.unused


def test_a_file_and_a_live_model_agree(tmp_path):
    source = randomise(small_vit())
    surgery.save(source, tmp_path / "old.pt")
    live = small_vit(**NEW)
    outcome = transfer(tmp_path / "old.pt", live, resize="auto")
    job = plan(
        TransferRequest(
            source=surgery.open_checkpoint(tmp_path / "old.pt"),
            target="timm:vit_tiny_patch16_224",
            arguments=NEW,
            resize="auto",
        )
    )
    assert job == outcome.plan
    job.write(tmp_path / "new.safetensors")
    written = surgery.open_checkpoint(tmp_path / "new.safetensors").state_dict()
    assert same_bits(written, live.state_dict())
    selected = surgery.select(live, ":resized", transfer=outcome)
    assert selected == ("pos_embed", "patch_embed.proj.weight")
    file = surgery.open_checkpoint(tmp_path / "new.safetensors")
    assert surgery.select(live, ":resized", transfer=file) == selected
    rules = "base lr=1\n:resized lr=0.5\n"
    for origin in (outcome, tmp_path / "new.safetensors"):
        groups = surgery.resolve_groups(live, rules, transfer=origin).groups
        assert {(group.tensors, dict(group.hyper)["lr"]) for group in groups} == {
            (len(list(live.parameters())) - 2, 1.0),
            (2, 0.5),
        }


def test_half_precision_is_computed_in_single():
    source, model = randomise(small_vit()).half(), small_vit(**NEW)
    transfer(source, model, resize="auto")
    expected = source.patch_embed.proj.weight.detach().float().sum(1, keepdim=True)
    assert torch.equal(model.patch_embed.proj.weight, expected)


def test_what_a_cast_breaks_after_a_resizer_is_counted():
    source, model = small_vit(), small_vit(**NEW).half()
    with torch.no_grad():
        source.patch_embed.proj.weight[0].fill_(3e4)  # the sum of three is beyond float16
    outcome = transfer(source, model, resize="auto")
    assert outcome.overflowed == (("patch_embed.proj.weight", 64),)
    assert outcome.plan.casts == {"float32 -> float16": len(outcome.plan.steps)}


def test_strict_takes_what_was_named_and_nothing_else():
    source, model = small_vit(), small_vit(in_chans=1)
    before = snapshot(model)
    with pytest.raises(TransferRefused, match="strict: 1 tensors differ") as caught:
        transfer(source, model, resize="auto", strict=True)
    assert "name input-channels to accept it" in str(caught.value)
    assert same_bits(before, snapshot(model))
    named = {"patch_embed.proj.weight": "input-channels"}
    outcome = transfer(source, model, resize=named, strict=True)
    assert outcome.resized == ("patch_embed.proj.weight",)


def test_the_report_has_the_reason_and_the_reference():
    text = str(plan_transfer(small_vit(), small_vit(in_chans=1), resize="auto"))
    row = next(line for line in text.splitlines() if "patch_embed.proj.weight" in line)
    assert row.endswith(
        "input-channels: 3 input channels to 1: their sum  timm.models.adapt_input_conv"
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["pos_embd=pos-embed"], "did you mean pos_embed"),
        (["posembed"], "did you mean pos_embed or pos-embed"),
        (["pos_embed=pos_embed"], "did you mean pos-embed"),
        (["vocabular"], "did you mean vocabulary"),
        (
            ["pos_embed=pos-embde"],
            "; did you mean pos-embed?",
        ),
        (["pos_embed=pos-embed:newer=3x3"], "no setting 'newer', only old, new, prefix, mode"),
        (["pos_embed=pos-embed:new=9"], "new='9' is no grid; expected ROWSxCOLUMNS"),
        (["pos_embed=pos-embed:new"], "expected each KEY=VALUE once, found 'new'"),
        ("head", "what head selects has the same shape on both sides"),
        ("vocabulary", "fits nothing"),
        (5, "expected auto, PATTERN, METHOD or PATTERN=METHOD:KEY=VALUE, found 5"),
        (["pos_embed=pos-embed", "*embed=pos-embed"], "one method takes a tensor"),
        ({"head.bias": "pos-embed"}, "head.bias: not two embeddings of one width"),
        ({"nothing": ("pos-embed", {})}, "no tensor of the target is called 'nothing'"),
        ({"pos_embed": 3}, "expected a method's name or (name, settings), found 3"),
        ([3], "expected auto, PATTERN, METHOD or PATTERN=METHOD"),
        ([" "], "expected auto, PATTERN, METHOD or PATTERN=METHOD"),
        (
            ["pos_embed=pos-embed:new=9x9"],
            "65 new places are no 9 x 9 grid beside 0 or 1 others",
        ),
    ],
)
def test_a_request_that_cannot_be_met(asked, message):
    with pytest.raises(SurgeryError) as caught:
        plan_transfer(small_vit(), small_vit(img_size=64), resize=asked)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("resize", "named"),
    [("auto", False), ("pos_embed", True), ("pos-embed", True), ("pos_embed=pos-embed", True)],
)
def test_all_tensors_or_some_by_any_method_or_by_one(resize, named):
    step = plan_transfer(small_vit(), small_vit(img_size=64), resize=resize).by_target["pos_embed"]
    assert (step.state, step.method.name, step.method.named) == ("resized", "pos-embed", named)


def test_values_of_the_model_itself():
    """Both sides of a swap live in one memory, and one of them is computed."""
    model = torch.nn.ModuleDict({"a": torch.nn.Conv2d(1, 2, 1), "b": torch.nn.Conv2d(3, 2, 1)})
    a, b = (model[name].weight.detach().clone() for name in "ab")
    named = {"a.weight": "input-channels", "b.weight": "input-channels"}
    transfer(model, model, mapping="a -> b\nb -> a", resize=named)
    assert torch.equal(model["a"].weight, b.sum(1, keepdim=True))
    assert torch.equal(model["b"].weight, a.repeat(1, 3, 1, 1) * (1 / 3))


@pytest.mark.parametrize("name", ["pos_embed", "module.pos_embed"])
def test_below_a_wrapper_either_name_will_do(name):
    model = torch.nn.DataParallel(small_vit(img_size=64))
    outcome = transfer(small_vit(), model, resize={name: ("pos-embed", {"new": [8, 8]})})
    assert outcome.resized == ("module.pos_embed",)


def test_nothing_is_made_of_nothing():
    """The mean of no words would be NaN."""
    source = {"embed.weight": torch.zeros(0, 3)}
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 3)})
    with pytest.raises(TransferRefused, match="not one tensor"):
        transfer(source, model, resize="auto")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_only_real_numbers_are_computed_with(dtype):
    source = {"weight": torch.ones(4, 3, 3, 3, dtype=dtype)}
    with pytest.raises(TransferRefused, match="not one tensor"):
        transfer(source, torch.nn.Conv2d(1, 4, 3), resize="auto", min_loaded=0)
    with pytest.raises(SurgeryError, match="fits nothing") as caught:
        transfer(source, torch.nn.Conv2d(1, 4, 3), resize={"weight": "input-channels"})
    assert f"of real numbers: source {str(dtype)[6:]} (4, 3, 3, 3)" in str(caught.value)


def test_of_an_index_no_resizer_says_anything():
    shapes = ((49, 49), (64, 64))
    sides = [[TensorSpec("relative_position_index", shape, "int64")] for shape in shapes]
    step = plan_transfer(*sides, resize="auto").by_target["relative_position_index"]
    assert step.reason == "shape differs: source (49, 49), target (64, 64)"


def test_what_says_more_goes_first_in_any_order():
    names = ("embed_tokens.weight", "lm_head.weight")
    sides = [[TensorSpec(n, (words, 4), "float32") for n in names] for words in (7, 10)]
    asked = ["auto", "vocabulary", "lm_head.weight=vocabulary:new=fresh"]
    plan = plan_transfer(*sides, resize=asked)
    methods = [plan.by_target[name].method for name in names]
    assert [dict(method.settings)["new"] for method in methods] == ["mean", "fresh"]
    assert all(method.named for method in methods)


@pytest.mark.parametrize("resize", ["auto", "weight=input-channels"])
def test_what_torch_cannot_cast_is_not_computed_with(resize):
    sides = [
        [
            TensorSpec("weight", (4, channels, 3, 3), "float4_e2m1fn_x2"),
            TensorSpec("b", (1,), "int8"),
        ]
        for channels in (3, 1)
    ]
    if resize == "auto":
        assert plan_transfer(*sides, resize=resize).by_target["weight"].state == "fresh"
    else:
        with pytest.raises(SurgeryError, match="of real numbers: source float4_e2m1fn_x2"):
            plan_transfer(*sides, resize=resize)


def test_eight_bits_are_computed_in_single():
    source = {"weight": torch.randn(4, 3, 3, 3).to(torch.float8_e4m3fn)}
    model = torch.nn.Conv2d(1, 4, 3, bias=False)
    transfer(source, model, resize="auto")
    assert torch.equal(model.weight, source["weight"].float().sum(1, keepdim=True))
