"""One layer in many forms: fused, split, turned, flattened, renamed leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from two_implementations import load, matched, unloaded

from surgery.errors import SurgeryError
from surgery.matching.recipes.recipe import View
from surgery.matching.recipes.words import in_words
from surgery.matching.structure import match_structure
from surgery.matching.structure.words import compare, concepts, projection
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers.recipe_tensors import make_tensor


def specs(**shapes: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name.replace("__", "."), s, "float32") for name, s in shapes.items())


def plan(source, target, **options):
    return match_structure(SourceSpec(source), ModelSpec.from_tensors(target), **options)


def steps(match):
    return {
        step.target.name: (in_words(step.recipe), *(s.name for s in step.sources))
        for step in match.steps
    }


FUSED = specs(a__qkv__weight=(12, 4), a__qkv__bias=(12,), a__proj__weight=(4, 5))
SPLIT = specs(
    b__query__weight=(4, 4), b__query__bias=(4,), b__key__weight=(4, 4), b__key__bias=(4,),
    b__value__weight=(4, 4), b__value__bias=(4,), b__out__weight=(4, 5),
)  # fmt: skip
HALF = specs(c__qkv__weight=(12, 4), c__q_bias=(4,), c__v_bias=(4,), c__o__weight=(4, 5))


def test_split_to_fused_is_rows_below_each_other():
    found = steps(plan(SPLIT, FUSED))
    assert found["a.qkv.weight"] == (
        "concatenate rows",
        "b.query.weight",
        "b.key.weight",
        "b.value.weight",
    )
    assert found["a.qkv.bias"][0] == "concatenate rows"


def test_fused_to_split_is_slices():
    match = plan(FUSED, SPLIT)
    (step,) = (s for s in match.steps if s.target.name == "b.key.weight")
    assert step.recipe == View.of(FUSED[0]).rows(4, 8)
    assert in_words(step.recipe) == "slice rows"


def test_the_missing_bias_of_k_is_zero_and_said():
    match = plan(HALF, FUSED)
    (step,) = (s for s in match.steps if s.target.name == "a.qkv.bias")
    assert in_words(step.recipe) == "concatenate rows, zeros"
    assert "the source has no bias for k: zero" in step.evidence
    values = {name: torch.full((4,), i + 1.0) for i, name in enumerate(["c.q_bias", "c.v_bias"])}
    made = make_tensor(step.recipe, values.__getitem__)
    assert made.tolist() == [1.0] * 4 + [0.0] * 4 + [2.0] * 4


def test_a_bias_of_k_that_the_target_has_not_is_dropped_and_said():
    match = plan(FUSED, HALF)
    (step,) = (s for s in match.steps if s.target.name == "c.v_bias")
    assert step.recipe == View.of(FUSED[1]).rows(8, 12)
    assert any("no bias for k" in reason for reason in step.evidence)


def test_grouped_queries_in_one_matrix_are_refused():
    split = specs(
        q_proj__weight=(8, 8), k_proj__weight=(2, 8), v_proj__weight=(2, 8), o__weight=(8, 3)
    )
    fused = specs(wqkv__weight=(12, 8), o__weight=(8, 3))
    match = plan(split, fused)
    assert "wqkv.weight" not in steps(match)
    assert any("wqkv.weight" in group.targets for group in match.open)


def test_both_spellings_of_weight_norm():
    old, new = nn.Sequential(nn.Conv1d(3, 5, 2), nn.Conv1d(5, 7, 2)), nn.Sequential()
    with pytest.warns(FutureWarning):
        old = nn.Sequential(*(nn.utils.weight_norm(layer) for layer in old))
    new.one = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 5, 2))
    new.two = nn.utils.parametrizations.weight_norm(nn.Conv1d(5, 7, 2))
    for source, target in ((old, new), (new, old)):
        match = matched(source, target)
        assert not unloaded(match, target)
        load(match, source.state_dict(), target)
        picture = torch.randn(2, 3, 9)
        torch.testing.assert_close(source(picture), target(picture))


def test_a_linear_layer_over_a_feature_map_and_its_convolution():
    linear = specs(
        f__0__weight=(6, 3, 3, 3), f__0__bias=(6,), c__0__weight=(10, 54), c__0__bias=(10,)
    )
    conv = specs(
        stem__weight=(6, 3, 3, 3), stem__bias=(6,), pre__weight=(10, 6, 3, 3), pre__bias=(10,)
    )
    assert steps(plan(linear, conv))["pre.weight"] == ("reshape", "c.0.weight")
    assert steps(plan(conv, linear))["c.0.weight"] == ("reshape", "pre.weight")


def test_patches_may_be_flattened_in_any_order_and_are_refused():
    linear = specs(embed__weight=(8, 48), embed__bias=(8,), up__weight=(16, 8), up__bias=(16,))
    conv = specs(proj__weight=(8, 3, 4, 4), proj__bias=(8,), fc__weight=(16, 8), fc__bias=(16,))
    assert set(steps(plan(linear, conv))) == {"fc.weight", "fc.bias"}


def test_a_square_matrix_beside_both_orientations_is_refused():
    source = specs(
        a__up__weight=(4, 8), a__up__bias=(8,), a__mix__weight=(4, 4), a__mix__bias=(4,),
        a__down__weight=(4, 8), a__down__bias=(4,), a__last__weight=(9, 4), a__last__bias=(9,),
    )  # fmt: skip
    target = specs(
        b__fc1__weight=(8, 4), b__fc1__bias=(8,), b__any__weight=(4, 4), b__any__bias=(4,),
        b__fc2__weight=(4, 8), b__fc2__bias=(4,), b__end__weight=(9, 4), b__end__bias=(9,),
    )  # fmt: skip
    match = plan(source, target)
    assert steps(match)["b.fc1.weight"] == ("transpose", "a.up.weight")
    assert steps(match)["b.fc2.weight"] == ("copy", "a.down.weight")
    assert [group.targets for group in match.open] == [("b.any.weight", "b.any.bias")]


def test_other_frameworks_names_of_leaves():
    source = specs(
        n__gamma=(4,), n__beta=(4,), n__moving_mean=(4,), n__moving_variance=(4,), scale=(3,)
    )
    target = specs(
        bn__weight=(4,), bn__bias=(4,), bn__running_mean=(4,), bn__running_var=(4,), gamma=(3,)
    )
    found = steps(plan(source, target))
    assert found["bn.weight"] == ("copy", "n.gamma")
    assert found["bn.running_var"] == ("copy", "n.moving_variance")
    assert found["gamma"] == ("copy", "scale")


def test_tied_names_take_one_step_each():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Embedding(11, 4), nn.Linear(4, 4)
            self.lm_head = nn.Linear(4, 11, bias=False)
            self.lm_head.weight = self.embed.weight

    source = {
        "wte.weight": torch.randn(11, 4),
        "fc.weight": torch.randn(4, 4),
        "fc.bias": torch.randn(4),
    }
    match = matched(source, Tied())
    assert {s.target.name for s in match.steps} == {*Tied().state_dict()}


def test_another_head_stays_open_and_disturbs_nothing():
    source = specs(a__weight=(4, 3), a__bias=(4,), head__weight=(1000, 4), head__bias=(1000,))
    target = specs(b__weight=(4, 3), b__bias=(4,), fc__weight=(10, 4), fc__bias=(10,))
    match = plan(source, target)
    assert set(steps(match)) == {"b.weight", "b.bias"}
    assert match.without_source == ("fc.weight", "fc.bias")
    assert match.unused == ("head.bias", "head.weight")


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        ("layer2", "layer10", -1),
        ("k", "q", None),
        ("a", "b", -1),
        ("Mixed_5c", "Mixed_5b", 1),
        ("layernorm_before", "layernorm_after", -1),
        ("post_attention_layernorm", "input_layernorm", 1),
        ("attention_norm", "ffn_norm", -1),
        ("norm_pre", "norm", -1),
        ("conv1", "norm2", None),
        ("weight", "bias", None),
    ],
)
def test_the_order_that_names_speak_of(one, other, order):
    assert compare(one, other) == order


def test_words():
    assert projection("query_key_value") == ("", "")
    assert projection("to_qkv") == ("qkv", "to")
    assert concepts("cls_token") == concepts("class_embedding") == {"class", "embed"}
    assert concepts("lin_proj") == frozenset()
    assert concepts("mlp2") != concepts("mlp")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("fc1", "fc2"), ("lin1", "lin2")),
        (("up_proj", "down_proj"), ("up", "down")),
        (("w_in", "w_out"), ("proj_in", "proj_out")),
    ],
)
def test_unbiased_matrices_stored_the_other_way_round_are_not_crossed(ours, theirs):
    rest = {"norm__weight": (4,), "last__weight": (9, 4)}
    source = specs(**{f"a__{ours[0]}__weight": (4, 8), f"a__{ours[1]}__weight": (8, 4)}, **rest)
    target = specs(**{f"b__{theirs[0]}__weight": (8, 4), f"b__{theirs[1]}__weight": (4, 8)}, **rest)
    match = plan(source, target)
    assert set(steps(match)) == {"norm.weight", "last.weight"}
    assert all("(in, out)" in group.reason for group in match.open)


def test_kernels_with_pixels_first_are_left_alone():
    source = specs(
        stem__kernel=(3, 3, 3, 8), mix__kernel=(1, 1, 8, 8), fc__weight=(5, 8), n__weight=(8,)
    )
    target = specs(
        stem__weight=(8, 3, 3, 3), mix__weight=(8, 8, 1, 1), fc__weight=(5, 8), n__weight=(8,)
    )
    for one, other in ((source, target), (target, source)):
        assert set(steps(plan(one, other))) == {"fc.weight", "n.weight"}


def test_square_convolutions_of_torch_are_not_taken_for_others():
    source = specs(a__weight=(8, 8, 3, 3), b__weight=(1, 1, 5, 5), c__weight=(9, 1, 3, 3))
    assert len(steps(plan(source, source))) == 3


STRANGE = [
    (),
    specs(a__w_g=(8, 1), a__qkv__weight=(), a__kv_scale=(), up__weight=(1, 1), gate_up=(2,)),
    specs(b__g_w=(8, 1), b__Wqkv__weight=(), b__kv_gain=(), gate__weight=(1, 1), up_gate=(2,)),
    specs(qkv__weight=(0, 3), qkv__bias=(4,), q__weight=(3,), k__weight=(3,), v__weight=(3,)),
    specs(weight=(4,), bias=(4,)),
    (TensorSpec("", (3,), "float32"), TensorSpec("..", (3,), "float32")),
    tuple(TensorSpec(str(at), (3,), "float32") for at in range(40)),
    tuple(TensorSpec(f"{'ab'[at % 2] * at}.fc.weight", (3, 3), "float32") for at in range(40)),
    (TensorSpec("a", (), "float32"), TensorSpec("b", (0, 3), "float32")),
    (TensorSpec("9" * 5000 + ".weight", (3,), "float32"),),
    (TensorSpec("\ud800.weight", (3,), "float32"), TensorSpec("\u0663.bias", (3,), "float32")),
]


@pytest.mark.parametrize("source", STRANGE)
@pytest.mark.parametrize("target", STRANGE)
def test_strange_names_end_in_a_result(source, target):
    match = plan(source, target)
    done = {step.target.name for step in match.steps}
    said = {name for group in match.open for name in group.targets}
    assert done | said | {*match.without_source} == {spec.name for spec in target}
    if source is target and source:
        assert all(step.target in step.sources for step in match.steps)


def test_a_name_that_no_module_can_have_is_an_error():
    deep = (TensorSpec("a." * 2000 + "weight", (3,), "float32"),)
    with pytest.raises(SurgeryError, match="2,001 segments"):
        plan(deep, deep)
