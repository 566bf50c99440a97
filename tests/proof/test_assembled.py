"""Proofs of plans whose targets are made of rows of several sources."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from structure_plans import structure_plan
from tiny_models import randomise
from torch import nn

import surgery
from surgery.proof.proof import OTHERWISE
from surgery.report.proof import proof_lines
from surgery.transfers.operations import Operation, Piece
from surgery.transfers.plan import Assemble, Load

WIDTH = 8


def attend(q, k, v):
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


class Block(nn.Module):
    """Attention between two linear layers, on three tokens made of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, WIDTH)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.first(x)
        x = torch.stack([x, x.flip(-1), x.roll(1, -1)], 1)
        return self.last((x + self.project(attend(*self.qkv_of(x)))).sum(1))


class Split(Block):
    def __init__(self, k_bias: bool = True) -> None:
        super().__init__()
        self.query, self.value, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.key = nn.Linear(WIDTH, WIDTH, bias=k_bias)

    def qkv_of(self, x):
        return self.query(x), self.key(x), self.value(x)

    def project(self, x):
        return self.proj(x)


class Fused(Block):
    def __init__(self, order: str = "qkv") -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.order = order

    def qkv_of(self, x):
        parts = dict(zip(self.order, self.qkv(x).chunk(3, -1), strict=True))
        return parts["q"], parts["k"], parts["v"]

    def project(self, x):
        return self.proj(x)


class TwoBiases(Block):
    """As BEiT and Swin v2: a bias for q and one for v beside the fused matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.q_bias, self.v_bias = (nn.Parameter(torch.rand(WIDTH)) for _ in range(2))

    def qkv_of(self, x):
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return nn.functional.linear(x, self.qkv.weight, bias).chunk(3, -1)

    def project(self, x):
        return self.proj(x)


class Turned(Block):
    """As GPT-2: every matrix of the block is stored (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Module(), nn.Module()
        for layer, wide in ((self.c_attn, 3 * WIDTH), (self.c_proj, WIDTH)):
            layer.weight = nn.Parameter(torch.rand(WIDTH, wide))
            layer.bias = nn.Parameter(torch.rand(wide))

    def qkv_of(self, x):
        return (x @ self.c_attn.weight + self.c_attn.bias).chunk(3, -1)

    def project(self, x):
        return x @ self.c_proj.weight + self.c_proj.bias


def spec_of(model, name):
    return next(
        step.target
        for step in surgery.plan_transfer(model, model).steps
        if step.target.name == name
    )


def piece(model, name, part=None, turned=False):
    """The rows of q, k or v in a fused tensor, or all of a tensor."""
    spec = spec_of(model, name)
    high = spec.shape[-1] if turned else spec.shape[0]
    start = "qkv".index(part) * WIDTH if part else 0
    return Piece(spec, start, start + WIDTH if part else high, turned)


def planned(source, target, made):
    """A plan by names, where ``made`` says for targets of what pieces they are."""
    plan = surgery.plan_transfer(source, target)
    steps = tuple(
        Assemble(step.target, made[step.target.name]) if step.target.name in made else step
        for step in plan.steps
    )
    used = {s.name for step in steps for s in step.sources}
    unused = tuple(u for u in plan.unused if u.source.name not in used)
    return replace(plan, steps=steps, unused=unused)


def split_to_fused(source, target, order=("query", "key", "value")):
    return planned(
        source,
        target,
        {
            f"qkv.{kind}": Operation(tuple(piece(source, f"{name}.{kind}") for name in order))
            for kind in ("weight", "bias")
        },
    )


def fused_to_split(source, target, order="qkv"):
    return planned(
        source,
        target,
        {
            f"{name}.{kind}": Operation((piece(source, f"qkv.{kind}", part),))
            for name, part in zip(("query", "key", "value"), order, strict=True)
            for kind in ("weight", "bias")
        },
    )


def turned_to_fused(source, target, *, turned=True):
    whole = {
        f"{mine}.{kind}": Operation((piece(source, f"{name}.{kind}"),))
        for mine, name in (("qkv", "c_attn"), ("proj", "c_proj"))
        for kind in ("bias",)
    }
    matrices = {
        "qkv.weight": Operation((piece(source, "c_attn.weight", turned=True),)),
        "proj.weight": Operation((piece(source, "c_proj.weight", turned=turned),)),
    }
    return planned(source, target, whole | matrices)


def turned_to_split(source, target):
    made = {
        f"{name}.{kind}": Operation((piece(source, f"c_attn.{kind}", part, kind == "weight"),))
        for name, part in (("query", "q"), ("key", "k"), ("value", "v"))
        for kind in ("weight", "bias")
    }
    made["proj.weight"] = Operation((piece(source, "c_proj.weight", turned=True),))
    made["proj.bias"] = Operation((piece(source, "c_proj.bias"),))
    return planned(source, target, made)


def fused_to_turned(source, target):
    return planned(
        source,
        target,
        {
            "c_attn.weight": Operation((piece(source, "qkv.weight"),), transposed=True),
            "c_attn.bias": Operation((piece(source, "qkv.bias"),)),
            "c_proj.weight": Operation((piece(source, "proj.weight"),), transposed=True),
            "c_proj.bias": Operation((piece(source, "proj.bias"),)),
        },
    )


def to_two_biases(source, target):
    return planned(
        source,
        target,
        {
            "qkv.weight": Operation((piece(source, "qkv.weight"),)),
            "q_bias": Operation((piece(source, "qkv.bias", "q"),)),
            "v_bias": Operation((piece(source, "qkv.bias", "v"),)),
        },
    )


def from_two_biases(source, target):
    bias = (piece(source, "q_bias"), Piece(None, 0, WIDTH), piece(source, "v_bias"))
    return planned(source, target, {"qkv.bias": Operation(bias)})


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
    assert any(isinstance(step, Assemble) for step in plan.steps)
    assert surgery.verify_transfer(source, target, plan).holds


def test_q_and_k_joined_the_wrong_way_round():
    source, target = randomise(Split()), Fused()
    plan = split_to_fused(source, target, ("key", "query", "value"))
    proof = surgery.verify_transfer(source, target, plan)
    assert not proof.holds
    assert not proof.networks_differ
    acting = {move.source: (move.targets, move.acts_as) for move in proof.movements if move.acts_as}
    assert acting["query.weight"] == (("qkv.weight",), ("key.weight",))
    assert acting["key.weight"] == (("qkv.weight",), ("query.weight",))
    assert "qkv.weight takes query.weight, and acts as key.weight" in "\n".join(proof_lines(proof))


def test_q_and_k_taken_apart_the_wrong_way_round():
    source, target = randomise(Fused()), Split()
    proof = surgery.verify_transfer(source, target, fused_to_split(source, target, "kqv"))
    assert not proof.networks_differ
    acting = {move.source: (move.targets, move.acts_as) for move in proof.movements if move.acts_as}
    assert acting["qkv.weight[0:8]"] == (("key.weight",), ("qkv.weight[8:16]",))
    assert acting["qkv.weight[8:16]"] == (("query.weight",), ("qkv.weight[0:8]",))
    assert "qkv.weight[16:24]" not in acting
    assert re.search(r"qkv\.weight\[0:8\] +key\.weight .*acts as qkv\.weight\[8:16\]", str(proof))


@pytest.mark.parametrize("order", ["kqv", "qvk", "vkq", "kvq"])
def test_rows_in_another_order(order):
    """One fused matrix into another: the rows that went wrong are named."""
    source, target = randomise(Fused()), Fused()
    made = {
        f"qkv.{kind}": Operation(tuple(piece(source, f"qkv.{kind}", part) for part in order))
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
        Load(step.target, spec_of(source, step.target.name.replace("b.", "a.")))
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
    made = {"head.weight": Operation((piece(source, "head.weight"),))}
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
