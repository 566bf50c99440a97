"""Fused projections: rows are copied only where both names say that they lie in one order."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from two_implementations import difference, load, matched, randomised, unloaded

from surgery.matching.structure import match_structure
from surgery.matching.structure.words import projection
from surgery.specs import ModelSpec, SourceSpec, TensorSpec


def network(*attention: tuple[str, tuple[int, ...]], more=()) -> tuple[TensorSpec, ...]:
    """Blocks with one attention, whose tensors are given, and what tells them from others."""
    rest = [("norm.weight", (8,)), ("norm.bias", (8,)), ("out.weight", (8, 5))]
    blocks = [
        TensorSpec(f"blocks.{at}.{name}", shape, "float32")
        for at in range(2)
        for name, shape in (*rest, *attention)
    ]
    return (*blocks, *(TensorSpec(name, shape, "float32") for name, shape in more))


def plan(source, target, **options):
    return match_structure(SourceSpec(source), ModelSpec.from_tensors(target), **options)


def filled(match, word):
    return {step.target.name for step in match.steps if word in step.target.name}


EVEN = (24, 8)


@pytest.mark.parametrize(
    ("one", "other", "shape", "copied"),
    [
        ("attn.qkv.weight", "attn.in_proj_weight", EVEN, True),
        ("attn.Wqkv.weight", "attn.c_attn.weight", EVEN, True),
        ("attn.to_qkv.weight", "attn.qkv.weight", EVEN, True),
        ("attn.query_key_value.weight", "attn.query_key_value.weight", EVEN, True),
        ("attn.query_key_value.weight", "attn.qkv.weight", EVEN, False),
        ("attn.query_key_value.weight", "attn.W_pack.weight", EVEN, False),
        ("attn.query_key_value.linear.weight", "attn.mixed.weight", EVEN, False),
        ("attn.qkv.weight", "attn.W_pack.weight", EVEN, False),
        ("attn.queries_keys_values.linear.weight", "attn.qkv.linear.weight", (16, 8), False),
        # Rows of grouped queries, or of heads of another width, lie group by group in some.
        ("attn.wqkv.weight", "attn.qkv_proj.weight", (12, 8), False),
        ("attn.wqkv.weight", "attn.qkv_proj.weight", (48, 8), False),
        ("attn.qkv_proj.weight", "attn.qkv_proj.weight", (12, 8), True),
        ("attn.kqv.weight", "attn.qkv.weight", EVEN, True),
        # Over pictures some interleave q, k and v per head.
        ("attn.qkv.weight", "attn.to_qkv.weight", (*EVEN, 1, 1), False),
        ("attn.qkv.weight", "attn.qkv.weight", (*EVEN, 1, 1), True),
        ("attn.kv.weight", "attn.key_value.weight", (16, 8), False),
        ("attn.to_kv.weight", "attn.kv.weight", (16, 8), True),
        ("attn.kv_b_proj.weight", "attn.wkv_b.weight", (20, 8), False),
        # No attention at all: torch's own in_proj has three times as many rows as inputs.
        ("mixer.in_proj.weight", "mixer.input.weight", (32, 8), True),
    ],
)
def test_fused_rows_are_copied_where_the_names_say_one_order(one, other, shape, copied):
    for names in ((one, other), (other, one)):
        source, target = (network((name, shape)) for name in names)
        match = plan(source, target)
        word = names[1].split(".")[1]
        assert bool(filled(match, word)) == copied
        if not copied:
            assert {name for group in match.open for name in group.targets} == {
                f"blocks.{at}.{names[1]}" for at in range(2)
            }
            assert all("per head" in group.reason for group in match.open)


def test_both_layouts_are_named_where_rows_are_refused():
    source = network(("attn.query_key_value.weight", EVEN))
    match = plan(source, network(("attn.Wqkv.weight", EVEN)))
    reason = match.open[0].reason
    assert "query_key_value does not say" in reason or "cannot be read from the names" in reason


def test_a_fused_convolution_is_not_taken_apart():
    fused = network(("attn.qkv.weight", (24, 8, 1, 1)))
    split = network(*((f"attn.{part}.weight", (8, 8, 1, 1)) for part in "qkv"))
    for source, target in ((fused, split), (split, fused)):
        match = plan(source, target)
        assert not filled(match, "attn.")
        assert "fused convolution" in match.open[0].reason


def test_the_norm_of_fused_rows_goes_as_they_go():
    def specs(word):
        return network(
            (f"attn.{word}.linear.weight", (16, 8)),
            (f"attn.{word}.bn.weight", (16,)),
            (f"attn.{word}.bn.bias", (16,)),
        )

    assert not filled(plan(specs("queries_keys_values"), specs("qkv")), "qkv")
    assert len(filled(plan(specs("qkv"), specs("qkv")), "qkv")) == 6


def test_a_hint_says_that_rows_lie_in_one_order():
    source = network(("attn.query_key_value.weight", EVEN))
    target = network(("attn.pack.weight", EVEN))
    match = plan(source, target, hints=["query_key_value -> pack"])
    assert not filled(plan(source, target), "pack")
    assert len(filled(match, "pack")) == 2


SPLIT = [("attn.q_proj.weight", (8, 8)), ("attn.k_proj.weight", (8, 8))]
META = [("attn.wq.weight", (8, 8)), ("attn.wk.weight", (8, 8)), ("attn.wv.weight", (8, 8))]
POSITIONS = [("position_embedding.weight", (77, 8))]


def test_q_and_k_that_are_turned_in_other_ways_are_refused():
    source, target = network(*SPLIT, ("attn.v_proj.weight", (8, 8))), network(*META)
    match = plan(source, target)
    assert not filled(match, "attn.")
    assert "turned for the position" in match.open[0].reason
    whole = plan(source, target, hints=match.open[0].hints)
    assert len(filled(whole, "attn.")) == 6


def test_q_and_k_are_not_turned_where_positions_are_embedded():
    source = network(*SPLIT, ("attn.v_proj.weight", (8, 8)), more=POSITIONS)
    match = plan(source, network(*META, more=POSITIONS))
    assert len(filled(match, "attn.")) == 6


def test_what_no_name_tells_of_q_and_k_is_said():
    source = network(*SPLIT, ("attn.v_proj.weight", (8, 8)))
    target = network(*((f"attn.to_{part}.weight", (8, 8)) for part in "qkv"))
    step = plan(source, target).steps[-1]
    assert "no name tells how they are turned for the position" in str(step)


@pytest.mark.parametrize(
    ("segment", "parts"),
    [
        ("qkv", "qkv"), ("in_proj_weight", "qkv"), ("to_kv", "kv"), ("query_key_value", ""),
        ("queries_keys_values", ""), ("q_proj", "q"), ("gate_up_proj", "gu"),
        ("kv_a_layernorm", None), ("fc", None),
    ],
)  # fmt: skip
def test_the_parts_and_their_order_that_the_name_of_a_projection_says(segment, parts):
    found = projection(segment)
    assert (found and found[0]) == parts


class Fused(nn.Module):
    """Torch's attention over keys and values of other widths: three weights, one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, kdim=12, vdim=10, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, q, k, v):
        return self.fc(self.attn(q, k, v)[0])


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(12, 16), nn.Linear(10, 16)
        self.out, self.fc = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, q, k, v):
        def heads(x):
            return x.view(*x.shape[:2], 2, 8).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(*map(heads, (self.q(q), self.k(k), self.v(v))))
        return self.fc(self.out(mixed.transpose(1, 2).reshape(q.shape)))


@pytest.mark.parametrize("ways", [(Fused, Split), (Split, Fused)])
def test_one_bias_beside_three_weights(ways):
    source, target = (randomised(make(), seed) for seed, make in enumerate(ways))
    match = matched(source, target)
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    inputs = (torch.randn(2, 5, width, dtype=torch.float64) for width in (16, 12, 10))
    assert difference(source, target, *inputs) < 1e-9


DOWN = ("mlp.down_proj.weight", (8, 24))


@pytest.mark.parametrize(
    ("split", "fused", "pieces"),
    [
        (("gate_proj", "up_proj"), "gate_up_proj", [("gate_proj", 0, 24), ("up_proj", 0, 24)]),
        (("gate", "up"), "up_and_gate", [("up", 0, 24), ("gate", 0, 24)]),
        (("w1", "w3"), "w13", [("w1", 0, 24), ("w3", 0, 24)]),
        (("w1", "w2"), "w12", [("w1", 0, 24), ("w2", 0, 24)]),
        (("gate_proj", "up_proj"), "w12", None),
        (("w1", "w3"), "w12", None),
        (("w1", "w3"), "gate_up_proj", None),
        (("gate_proj", "up_proj"), "fc1", None),
    ],
)
def test_gate_and_up_fused_and_split(split, fused, pieces):
    two = network(*((f"mlp.{name}.weight", (24, 8)) for name in split), DOWN)
    one = network((f"mlp.{fused}.weight", (48, 8)), DOWN)
    made = {step.target.name: step.recipe.views for step in plan(two, one).steps}
    back = {step.target.name: step.recipe.views for step in plan(one, two).steps}
    if pieces is None:
        assert not any(split[0] in name or fused in name for name in (*made, *back))
        assert plan(two, one).open
        assert plan(one, two).open
        return
    found = made[f"blocks.1.mlp.{fused}.weight"]
    assert [(v.source.name.split(".")[-2], *v.window[1:]) for v in found] == pieces
    for at, (name, _, _) in enumerate(pieces):
        (view,) = back[f"blocks.0.mlp.{name}.weight"]
        assert view.window == (0, 24 * at, 24 * at + 24)


@pytest.mark.parametrize(
    ("one", "other", "copied"),
    [
        ("gate_up_proj", "gate_and_up", True),
        ("gate_up_proj", "up_gate_proj", False),
        ("gate_up_proj", "fc1", False),
        ("fc1", "weights_in", False),
        ("fc1", "fc1", True),
    ],
)
def test_gate_and_up_fused_on_both_sides(one, other, copied):
    source, target = (network((f"mlp.{name}.weight", (48, 8)), DOWN) for name in (one, other))
    assert bool(filled(plan(source, target), other)) == copied
