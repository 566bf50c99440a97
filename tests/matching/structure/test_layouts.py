"""Fused rows in any order, once a hint says which."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from two_implementations import difference, load, matched, randomised, unloaded, with_eps

from surgery.errors import SurgeryError
from surgery.matching.structure import match_structure
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers.recipe_tensors import make_tensor

TOKENS = torch.arange(12).reshape(2, 6)
SMALL = {"vocab_size": 60, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 16}


def codegen():
    return transformers.CodeGenForCausalLM(transformers.CodeGenConfig(**SMALL, rotary_dim=4))


def gptj():
    return transformers.GPTJForCausalLM(transformers.GPTJConfig(**SMALL, rotary_dim=4))


LLAMA = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))


def phi3():
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**LLAMA))


@pytest.mark.parametrize(
    ("one", "other", "rows"),
    [
        # modeling_codegen.py: four groups, in each q, v and k.
        (codegen, gptj, "4 x (q, v, k)"),
        (phi3, llama, "q, k, v"),
    ],
)
def test_both_ways_to_equal_outputs(one, other, rows):
    ways = (one, other, f"qkv_proj -> {rows}"), (other, one, f"{rows} -> qkv_proj")
    for make_source, make_target, hint in ways:
        source, target = randomised(make_source(), 1), randomised(make_target(), 2)
        assert matched(source, target).open
        match = matched(source, target, hints=[hint])
        assert not unloaded(match, target)
        load(match, source.state_dict(), target)
        assert difference(with_eps(source), with_eps(target), TOKENS) < 1e-6  # rotary in float32


def test_another_layout_is_another_network():
    source, target = randomised(codegen(), 1), randomised(gptj(), 2)
    match = matched(source, target, hints=["qkv_proj -> q, k, v"])
    load(match, source.state_dict(), target)
    assert difference(source, target, TOKENS) > 1e-3


def test_groups_that_do_not_divide_the_rows():
    match = matched(codegen(), gptj(), hints=["qkv_proj -> 3 x (q, k, v)"])
    assert {group.reason for group in match.open} == {
        "64 rows of q cannot be cut into 3 equal groups"
    }


parts = st.permutations("qkv").map("".join)
WIDTH = 8
NUMBER = {("qkv"[at // WIDTH], at % WIDTH): float(at) for at in range(3 * WIDTH)}


def rows_of(layout):
    """(part, number of the row among those of its part), from top to bottom."""
    order, groups = layout
    each = WIDTH // groups
    return [(p, g * each + row) for g in range(groups) for p in order for row in range(each)]


def side(name, split, bias):
    """The specs of one attention, and of a layer beside it."""
    names = [f"{part}_proj" for part in "qkv"] if split else [name]
    rows = WIDTH if split else 3 * WIDTH
    specs = [TensorSpec(f"a.{n}.weight", (rows, WIDTH), "float32") for n in names]
    specs += [TensorSpec(f"a.{n}.bias", (rows,), "float32") for n in names if bias]
    return [*specs, TensorSpec("a.out.weight", (WIDTH, 5), "float32")]


def values(spec, layout, split):
    """Every row holds the number of its part and place."""
    labels = [(spec.name[2], row) for row in range(WIDTH)] if split else rows_of(layout)
    column = torch.tensor([NUMBER[label] for label in labels])
    return column if len(spec.shape) == 1 else column[:, None].expand(spec.shape)


@given(
    ours=st.tuples(parts, st.sampled_from([1, 2, 4])),
    theirs=st.tuples(parts, st.sampled_from([1, 2, 4])),
    split=st.sampled_from(["", "source", "target"]),
    bias=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_rows_go_where_their_part_and_their_number_say(ours, theirs, split, bias):
    source = side("qkv_proj", split == "source", bias)
    target = side("query_key_value", split == "target", bias)
    layouts = {"qkv_proj": ours, "query_key_value": theirs}
    if split:
        del layouts["qkv_proj" if split == "source" else "query_key_value"]
    rows = {name: f"{n} x ({', '.join(order)})" for name, (order, n) in layouts.items()}
    hints = [
        f"{name} -> {said}" if name == "qkv_proj" else f"{said} -> {name}"
        for name, said in rows.items()
    ]
    match = match_structure(SourceSpec(tuple(source)), ModelSpec.from_tensors(target), hints=hints)
    held = {s.name: values(s, ours, split == "source") for s in source[:-1]}
    steps = {step.target.name: step for step in match.steps}
    for spec in target[:-1]:
        made = make_tensor(steps[spec.name].recipe, held.__getitem__)
        assert torch.equal(made, values(spec, theirs, split == "target")), spec.name


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ("qkv_proj -> q, q, v", "each of q, k and v once"),
        ("qkv_proj -> 4 x (q, k, v", "each of q, k and v once"),
        (
            "qkv_prj -> q, k, v",
            "no projection of the source is called 'qkv_prj'; did you mean qkv_proj?",
        ),
        ("ln_f -> q, k, v", "no fused projection of that name"),
    ],
)
def test_a_layout_that_cannot_be_is_an_error(hint, message):
    with pytest.raises(SurgeryError, match=message):
        matched(codegen(), gptj(), hints=[hint])
