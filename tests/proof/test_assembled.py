"""Proofs of plans whose targets are made of rows of several sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import attentions
import pytest
import torch
from attentions import WIDTH, Fused, Split, Turned, TwoBiases
from structure_plans import rows_of, structure_plan, with_recipes
from tiny_models import randomise
from torch import nn

import surgery
from surgery.checkpoint import open_checkpoint
from surgery.errors import SurgeryError
from surgery.matching.recipes.recipe import View, Zeros, join_rows
from surgery.proof import refuse_unproven
from surgery.proof.proof import OTHERWISE
from surgery.proof.verify import prove_plan
from surgery.transfers.planning import plan as plan_of
from surgery.transfers.request import TransferRequest
from surgery.transfers.step import Step


def spec_of(model, name):
    return next(
        step.target
        for step in surgery.plan_transfer(model, model).steps
        if step.target.name == name
    )


def piece(model, name, part=None, turned=False):
    """The rows of q, k or v in a fused tensor, or all of a tensor."""
    whole = View.of(spec_of(model, name))
    whole = whole.permute((1, 0)) if turned else whole
    start = "qkv".index(part) * WIDTH if part else 0
    return whole.rows(start, start + WIDTH) if part else whole


def planned(source, target, made):
    """A plan by names, where ``made`` says for targets of what rows they are."""
    plan = surgery.plan_transfer(source, target)
    return with_recipes(plan, lambda s: made[s.target.name](s) if s.target.name in made else None)


def split_to_fused(source, target, order=("query", "key", "value")):
    return planned(
        source,
        target,
        {
            f"qkv.{kind}": rows_of([piece(source, f"{name}.{kind}") for name in order])
            for kind in ("weight", "bias")
        },
    )


def fused_to_split(source, target, order="qkv"):
    return planned(
        source,
        target,
        {
            f"{name}.{kind}": rows_of((piece(source, f"qkv.{kind}", part),))
            for name, part in zip(("query", "key", "value"), order, strict=True)
            for kind in ("weight", "bias")
        },
    )


def turned_to_fused(source, target, *, turned=True):
    whole = {
        f"{mine}.{kind}": rows_of((piece(source, f"{name}.{kind}"),))
        for mine, name in (("qkv", "c_attn"), ("proj", "c_proj"))
        for kind in ("bias",)
    }
    matrices = {
        "qkv.weight": rows_of((piece(source, "c_attn.weight", turned=True),)),
        "proj.weight": rows_of((piece(source, "c_proj.weight", turned=turned),)),
    }
    return planned(source, target, whole | matrices)


def turned_to_split(source, target):
    made = {
        f"{name}.{kind}": rows_of((piece(source, f"c_attn.{kind}", part, kind == "weight"),))
        for name, part in (("query", "q"), ("key", "k"), ("value", "v"))
        for kind in ("weight", "bias")
    }
    made["proj.weight"] = rows_of((piece(source, "c_proj.weight", turned=True),))
    made["proj.bias"] = rows_of((piece(source, "c_proj.bias"),))
    return planned(source, target, made)


def fused_to_turned(source, target):
    return planned(
        source,
        target,
        {
            "c_attn.weight": rows_of((piece(source, "qkv.weight"),), transposed=True),
            "c_attn.bias": rows_of((piece(source, "qkv.bias"),)),
            "c_proj.weight": rows_of((piece(source, "proj.weight"),), transposed=True),
            "c_proj.bias": rows_of((piece(source, "proj.bias"),)),
        },
    )


def to_two_biases(source, target):
    return planned(
        source,
        target,
        {
            "qkv.weight": rows_of((piece(source, "qkv.weight"),)),
            "q_bias": rows_of((piece(source, "qkv.bias", "q"),)),
            "v_bias": rows_of((piece(source, "qkv.bias", "v"),)),
        },
    )


def from_two_biases(source, target):
    bias = (piece(source, "q_bias"), Zeros((WIDTH,)), piece(source, "v_bias"))
    return planned(source, target, {"qkv.bias": rows_of(bias)})


@pytest.mark.parametrize(
    ("source", "target", "make", "unseen"),
    [
        pytest.param(Split(), Fused(), split_to_fused, {"key.bias"}, id="joined"),
        pytest.param(Fused(), Split(), fused_to_split, {"qkv.bias[8:16]"}, id="taken-apart"),
        pytest.param(Turned(), Fused(), turned_to_fused, set(), id="turned"),
        pytest.param(
            Turned(), Split(), turned_to_split, {"c_attn.bias[8:16]"}, id="turned-and-apart"
        ),
        pytest.param(Fused(), Turned(), fused_to_turned, set(), id="to-turned"),
        pytest.param(Fused(), TwoBiases(), to_two_biases, {"qkv.bias[8:16]"}, id="k-bias-dropped"),
        pytest.param(TwoBiases(), Fused(), from_two_biases, set(), id="k-bias-of-zeros"),
    ],
)
def test_other_fusions_of_one_network(source, target, make, unseen):
    plan = make(randomise(source), target)
    proof = surgery.verify_transfer(source, target, plan)
    assert proof.holds, proof
    assert proof.largest < 1e-12
    assert {move.source for move in proof.unseen} == unseen
    assert len(proof.moved) == len(proof.movements) - len(unseen)


@pytest.mark.parametrize(
    ("source", "target"),
    [(Split(), Fused()), (Fused(), Split()), (TwoBiases(), Fused()), (Split(False), TwoBiases())],
    ids=["joined", "taken-apart", "zeros", "no-k-bias"],
)
def test_plans_that_structure_makes(source, target):
    plan = structure_plan(randomise(source), target)
    assert not plan.names("fresh")
    assert any(step.recipe and not step.recipe.is_copy for step in plan.steps)
    assert surgery.verify_transfer(source, target, plan).holds


def test_a_fresh_bias_that_a_softmax_takes_away():
    """It moves nothing, so that all of the outputs can be compared."""
    source, target = randomise(Split(False)), randomise(Split())
    proof = surgery.verify_transfer(source, target, surgery.plan_transfer(source, target))
    assert proof.holds, proof
    assert [point.target for point in proof.random.points] == ["output"]


def test_q_and_k_joined_the_wrong_way_round():
    source, target = randomise(Split()), Fused()
    plan = split_to_fused(source, target, ("key", "query", "value"))
    proof = surgery.verify_transfer(source, target, plan)
    assert not proof.holds
    assert not proof.networks_differ
    acting = {move.source: (move.targets, move.acts_as) for move in proof.movements if move.acts_as}
    assert acting["query.weight"] == (("qkv.weight",), ("key.weight",))
    assert acting["key.weight"] == (("qkv.weight",), ("query.weight",))
    assert "qkv.weight takes query.weight, and acts as key.weight" in str(proof)


def test_q_and_k_taken_apart_the_wrong_way_round():
    source, target = randomise(Fused()), Split()
    proof = surgery.verify_transfer(source, target, fused_to_split(source, target, "kqv"))
    assert not proof.networks_differ
    acting = {move.source: (move.targets, move.acts_as) for move in proof.movements if move.acts_as}
    assert acting["qkv.weight[0:8]"] == (("key.weight",), ("qkv.weight[8:16]",))
    assert acting["qkv.weight[8:16]"] == (("query.weight",), ("qkv.weight[0:8]",))
    assert "qkv.weight[16:24]" not in acting
    assert "key.weight takes qkv.weight[0:8], and acts as qkv.weight[8:16]" in str(proof)


@pytest.mark.parametrize("order", ["kqv", "qvk", "vkq", "kvq"])
def test_rows_in_another_order(order):
    """One fused matrix into another: the rows that went wrong are named."""
    source, target = randomise(Fused()), Fused()
    made = {
        f"qkv.{kind}": rows_of([piece(source, f"qkv.{kind}", part) for part in order])
        for kind in ("weight", "bias")
    }
    proof = surgery.verify_transfer(source, target, planned(source, target, made))
    assert not proof.holds
    assert not proof.networks_differ
    acting = {move.source: move.acts_as for move in proof.movements if move.acts_as}
    names = {part: f"qkv.weight[{at * 8}:{at * 8 + 8}]" for at, part in enumerate("qkv")}
    for part, place in zip(order, "qkv", strict=True):
        assert acting.get(names[part]) == (None if part == place else (names[place],))
    right = surgery.verify_transfer(source, Fused(order), planned(source, target, made))
    assert right.holds


def test_a_matrix_that_should_have_been_turned():
    source, target = randomise(Turned()), Fused()
    proof = surgery.verify_transfer(source, target, turned_to_fused(source, target, turned=False))
    acting = {move.source: move.acts_as for move in proof.movements if move.acts_as}
    assert acting == {"c_proj.weight": ("c_proj.weight, transposed",)}


def test_rows_that_only_the_source_uses():
    """A bias of k that moves the source, as with cosine attention, must not be dropped."""

    class Cosine(Fused):
        def qkv_of(self, x):
            q, k, v = super().qkv_of(x)
            return nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1), v

    class CosineOfTwo(TwoBiases):
        def qkv_of(self, x):
            q, k, v = super().qkv_of(x)
            return nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1), v

    source, target = randomise(Cosine()), CosineOfTwo()
    proof = surgery.verify_transfer(source, target, to_two_biases(source, target))
    assert not proof.holds
    dropped = [move for move in proof.movements if move.source == "qkv.bias[8:16]"]
    assert [(move.targets, move.verdict) for move in dropped] == [((), OTHERWISE)]


def test_one_source_in_two_targets():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x).tanh())

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(self.a(x).tanh())

    source, target = randomise(Once()), Twice()
    plan = surgery.plan_transfer(source, target)
    steps = tuple(
        Step(step.target, View.of(spec_of(source, step.target.name.replace("b.", "a."))), "loaded")
        for step in plan.steps
    )
    proof = surgery.verify_transfer(source, target, replace(plan, steps=steps))
    assert proof.holds, proof
    assert [move.targets for move in proof.moved] == [
        ("a.weight", "b.weight"),
        ("a.bias", "b.bias"),
    ]


def test_targets_of_two_dtypes_round_the_source_by_both():
    class Mixed(Split):
        def __init__(self):
            super().__init__()
            self.key.half()
            self.value.bfloat16()

    source, target = randomise(Fused()), Mixed()
    proof = surgery.verify_transfer(source, target, fused_to_split(source, target))
    assert proof.holds
    assert proof.own.largest < 1e-12


def test_heads_and_convolutions_of_one_matrix():
    """A linear layer on one side and a 1x1 convolution on the other is no difference to tell."""

    class Flat(nn.Module):
        def __init__(self, eps=1e-5):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=eps)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).mean((2, 3)))

    class Tall(Flat):
        def __init__(self, eps=1e-5):
            super().__init__(eps)
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).mean((2, 3), keepdim=True)).flatten(1)

    source = randomise(Flat())
    made = {"head.weight": rows_of((piece(source, "head.weight"),))}
    assert surgery.verify_transfer(source, Tall(), planned(source, Tall(), made)).holds
    proof = surgery.verify_transfer(source, Tall(1e-3), planned(source, Tall(), made))
    assert [(s.place, s.name) for s in proof.settings] == [("norm", "eps")]


def test_calls_of_a_fused_layer_are_not_held_against_those_of_its_parts():
    class Larger(Fused):
        def forward(self, x):
            return super().forward(x) * 1.5

    source, target = randomise(Split()), Larger()
    proof = surgery.verify_transfer(source, target, split_to_fused(source, target))
    assert proof.verdict == "weights agree, the networks do not"
    assert proof.settings == ()
    assert proof.first == ""


def test_a_fused_matrix_whose_rows_lie_in_another_order():
    """The plan cannot know: nothing is cut. The report says where to look."""

    class ByHead(Fused):
        def qkv_of(self, x):
            rows = self.qkv(x).unflatten(-1, (2, 3, WIDTH // 2))
            return tuple(rows[..., part, :].flatten(-2) for part in range(3))

    source, target = randomise(Fused()), ByHead()
    proof = surgery.verify_transfer(source, target, surgery.plan_transfer(source, target))
    assert not proof.holds
    assert "proj: it is fed something else" in proof.first
    assert "the order of rows in fused tensors" in str(proof)


def planned_file(tmp_path, saved_from="Split", **values):
    """A transfer between files, from projections apart into a fused one."""
    state = {**randomise(Split()).state_dict(), **values}
    surgery.save(state, tmp_path / "old.safetensors")
    request = TransferRequest(
        source=tmp_path / "old.safetensors",
        target=architecture("Fused"),
        match="structure",
        source_arch=architecture(saved_from),
    )
    return plan_of(request)


def architecture(name):
    return f"{Path(attentions.__file__)}:{name}"


def test_a_file_of_fused_tensors(tmp_path):
    plan = planned_file(tmp_path)
    proof = prove_plan(plan)
    assert proof.holds, proof
    plan.write(tmp_path / "new.safetensors")
    old, written = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in ("old", "new"))
    parts = [old.tensor(f"{name}.weight") for name in ("query", "key", "value")]
    assert torch.equal(written.tensor("qkv.weight"), torch.cat(parts))


def test_a_file_whose_q_and_k_are_swapped(tmp_path):
    def swapped(step):
        if not step.target.name.startswith("qkv."):
            return None
        q, k, v = step.recipe.parts
        return join_rows((k, q, v), step.target.shape)

    proof = prove_plan(with_recipes(planned_file(tmp_path), swapped))
    with pytest.raises(SurgeryError, match="are in another's place") as error:
        refuse_unproven(proof)
    assert error.value.exit_code == 1
    assert "qkv.weight takes key.weight, and acts as query.weight" in str(error.value)


def test_a_file_of_another_architecture_than_was_said(tmp_path):
    plan = planned_file(tmp_path)
    other = replace(plan.request, source_arch=architecture("Turned"))
    with pytest.raises(SurgeryError, match="has no place for") as error:
        prove_plan(replace(plan, request=other))
    assert "query.weight (8, 8)" in str(error.value)


def test_values_that_are_not_finite_in_one_piece(tmp_path):
    broken = Split().key.weight.detach().clone()
    broken[0, 0] = torch.nan
    proof = prove_plan(planned_file(tmp_path, **{"key.weight": broken}))
    assert not proof.holds
    assert proof.random.agrees
    assert proof.verdict == "the networks give values that are not finite"


@pytest.mark.parametrize("seed", range(12))
def test_any_mix_up_of_rows_is_refuted(seed):
    """Of what goes into the fused tensors, or comes out of one: right is proven, wrong is not."""
    random = Random(seed)
    orders = ["".join(random.sample("qkv", 3)) if random.random() < 0.7 else "qkv" for _ in "wb"]
    names = dict(zip("qkv", ("query", "key", "value"), strict=True))
    split, fused = randomise(Split(), seed), randomise(Fused(), seed)
    into, out = {}, {}
    for kind, order in zip(("weight", "bias"), orders, strict=True):
        pieces = [piece(split, f"{names[part]}.{kind}") for part in order]
        into[f"qkv.{kind}"] = rows_of(pieces)
        for part, source in zip("qkv", order, strict=True):
            out[f"{names[part]}.{kind}"] = rows_of((piece(fused, f"qkv.{kind}", source),))
    right = orders == ["qkv", "qkv"]
    for source, target, made in ((split, Fused(), into), (fused, Split(), out)):
        proof = surgery.verify_transfer(source, target, planned(source, target, made))
        assert proof.holds == right, proof
        assert not proof.networks_differ
        assert bool([move for move in proof.movements if move.acts_as]) == (not right)
