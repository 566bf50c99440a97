"""Pairs that shapes suggest and nothing tells: they stay open, and a hint can say them."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from two_implementations import matched, unloaded

from surgery.matching.recipes.recipe import View
from surgery.matching.structure import match_structure
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers.recipe_tensors import make_tensor
from surgery.transfers.refusal import hints_for

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, width: int = 8) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def joined(*layers: Shapes) -> Shapes:
    return {name: shape for layer in layers for name, shape in layer.items()}


def decide(source: Shapes, target: Shapes, *hints: str):
    sides = (
        tuple(TensorSpec(name, shape, "float32") for name, shape in side.items())
        for side in (source, target)
    )
    ours, theirs = sides
    return match_structure(SourceSpec(ours), ModelSpec.from_tensors(theirs), hints=hints)


def pairs_of(match) -> dict[str, str]:
    return {step.target.name: step.sources[0].name for step in match.steps}


BERT = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
BERT |= {"intermediate_size": 128, "max_position_embeddings": 64, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("source", "target", "left"),
    [
        ("BertForMaskedLM", "BertForSequenceClassification", "pooler"),
        ("RobertaForMaskedLM", "RobertaForSequenceClassification", "classifier"),
    ],
)
def test_the_head_of_one_task_does_not_go_into_that_of_another(source, target, left):
    made = []
    for name in (source, target):
        config = getattr(transformers, name.partition("For")[0] + "Config")(**BERT)
        made.append(getattr(transformers, name)(config))
    match = matched(*made)
    assert {name for name in unloaded(match, made[1]) if left in name} == {
        name for name, _ in made[1].named_parameters() if left in name
    }
    assert all(
        step.target.name.removeprefix("bert.") == step.sources[0].name.removeprefix("bert.")
        for step in match.steps
    )


BODY = joined(*(linear(f"body.{at}", 8 + at, 7 + at) for at in range(6)))


def test_modules_of_a_list_numbered_by_another_rule():
    """SAM's hypernetworks: the first and the last layer have names of their own, or none has."""
    source = joined(
        BODY,
        linear("net.proj_in", 20, 20),
        linear("net.layers.0", 20, 20),
        linear("net.proj_out", 4, 20),
    )
    target = joined(
        BODY, *(linear(f"net.layers.{at}", 4 if at == 2 else 20, 20) for at in range(3))
    )
    for one, other, wanted in ((source, target, "layers.2"), (target, source, "proj_out")):
        found = pairs_of(decide(one, other))
        assert {name for name in found if name.startswith("net")} == {
            f"net.{wanted}.weight",
            f"net.{wanted}.bias",
        }


def tower(name: str) -> Shapes:
    return joined(
        *(
            joined(
                linear(f"{name}.layers.{at}.fc1", 16, 8),
                linear(f"{name}.layers.{at}.fc2", 8, 16),
                norm(f"{name}.layers.{at}.norm"),
            )
            for at in range(3)
        )
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("student", "teacher"), ("model", "model_ema")),
        (("encoder", "decoder"), ("first", "second")),
        (("towers.0", "towers.1"), ("image", "text")),
        (("towers.0", "towers.1"), ("branches.0", "branches.1")),
        (("encoder_q", "encoder_k"), ("backbone", "momentum")),
    ],
)
def test_two_networks_in_one_are_not_told_apart_by_their_order(ours, theirs):
    source, target = (joined(BODY, *map(tower, names)) for names in (ours, theirs))
    for one, other in ((source, target), (target, source)):
        match = decide(one, other)
        assert all(name.startswith("body") for name in pairs_of(match))
        # One hint for a subtree settles all below it, and the other one is then the only one.
    hinted = decide(source, target, f"{ours[0]} -> {theirs[1]}")
    found = pairs_of(hinted)
    assert found.keys() == target.keys()
    assert all(
        found[name].startswith(ours[0]) == name.startswith(f"{theirs[1]}.")
        for name in target
        if not name.startswith("body")
    )


def test_one_of_two_networks_goes_where_a_hint_says():
    source, target = joined(BODY, tower("student"), tower("teacher")), joined(BODY, tower("net"))
    assert not any(name.startswith("net") for name in pairs_of(decide(source, target)))
    found = pairs_of(decide(source, target, "teacher -> net"))
    assert found["net.layers.2.fc1.weight"] == "teacher.layers.2.fc1.weight"
    assert found.keys() == target.keys()


@pytest.mark.parametrize("theirs", ["up.{}", "decoder.blocks.{}"])
def test_blocks_on_the_way_up_may_be_counted_from_the_other_end(theirs):
    def network(up: str) -> Shapes:
        blocks = (
            joined(linear(f"{up.format(at)}.a", 16, 8), linear(f"{up.format(at)}.b", 8, 16))
            for at in range(3)
        )
        return joined(BODY, *blocks)

    for one, other in (("ups.{}", theirs), (theirs, "ups.{}")):
        match = decide(network(one), network(other))
        assert all(name.startswith("body") for name in pairs_of(match))


def test_a_bare_square_matrix_is_open_until_a_hint_says_how_it_is_stored():
    source = joined(BODY, {"text_projection": (8, 8)})
    target = joined(BODY, linear("head.text_proj", 8, 8, bias=False))
    match = decide(source, target)
    assert "head.text_proj.weight" not in pairs_of(match)
    (group,) = match.open
    values = torch.arange(64.0).reshape(8, 8)
    for hint, wanted in zip(group.hints, (values.T, values), strict=True):
        made = decide(source, target, hint)
        (step,) = (x for x in made.steps if x.target.name == "head.text_proj.weight")
        assert torch.equal(make_tensor(step.recipe, lambda _: values), wanted)
    assert pairs_of(decide(source, source))["text_projection"] == "text_projection"


def test_a_bare_matrix_of_another_shape_is_turned():
    source = joined(BODY, {"text_projection": (8, 5)})
    target = joined(BODY, linear("head.text_proj", 5, 8, bias=False))
    (step,) = (x for x in decide(source, target).steps if "text_proj" in x.target.name)
    assert step.recipe == View.of(step.sources[0]).permute((1, 0))


@pytest.mark.parametrize("ways", [(True, False), (False, True)])
def test_a_bias_on_one_side_does_not_block_the_weight(ways):
    source, target = (joined(BODY, linear("extra", 31, 8, bias)) for bias in ways)
    match = decide(source, target)
    assert pairs_of(match)["extra.weight"] == "extra.weight"
    assert match.without_source == (("extra.bias",) if ways[1] else ())
    assert match.unused == (("extra.bias",) if ways[0] else ())


@pytest.mark.parametrize(
    ("split", "rows"),
    [(("gate_proj", "up_proj"), "gate, up"), (("w1", "w3"), "w1, w3"), (("w1", "w3"), "w3, w1")],
)
def test_a_hint_says_the_rows_of_fused_gates(split, rows):
    def block(at: int, *names: str) -> Shapes:
        width = 24 if len(names) == 2 else 48
        matrices = (linear(f"layers.{at}.mlp.{name}", width, 8, bias=False) for name in names)
        return joined(*matrices, linear(f"layers.{at}.mlp.down", 8, 24, bias=False))

    apart = joined(BODY, *(block(at, *split) for at in range(2)))
    fused = joined(BODY, *(block(at, "fc1") for at in range(2)))
    assert not any("fc1" in name for name in pairs_of(decide(apart, fused)))
    match = decide(apart, fused, f"{rows} -> fc1")
    (step,) = (x for x in match.steps if x.target.name == "layers.1.mlp.fc1.weight")
    first = rows.split(", ")[0]
    assert step.sources[0].name.rpartition(".mlp.")[2].startswith(first)
    assert len(step.sources) == 2
    back = decide(fused, apart, f"fc1 -> {rows}")
    assert apart.keys() == pairs_of(back).keys()


def open_blocks(*names: str, blocks: int = 5) -> Shapes:
    return joined(
        linear("stem", 8, 3),
        *(
            joined(
                *(linear(f"blocks.{at}.{name}", 8, 8) for name in names),
                linear(f"blocks.{at}.wide", 9, 8),
                linear(f"blocks.{at}.back", 8, 9),
            )
            for at in range(blocks)
        ),
    )


def test_what_repeats_over_blocks_is_asked_once_and_settled_by_the_hint_that_is_offered():
    source, target = open_blocks("apple", "pear"), open_blocks("stone", "river")
    match = decide(source, target)
    (group,) = match.open
    assert len(group.targets) == 5 * 4
    assert {name.split(".")[1] for name in group.question[0]} == {"0"}
    (line,) = hints_for(match.open)
    ours, theirs = line.split(f"where {'A'} is ")[1].split(", and B is ")
    hint = f"{ours.split(' or ')[0]} -> {theirs.split(' or ')[0]}"
    assert pairs_of(decide(source, target, hint)).keys() == target.keys()


def test_the_offered_lines_for_rows_settle_all_layers():
    source = joined(
        open_blocks(), *(linear(f"blocks.{x}.query_key_value", 24, 8) for x in range(5))
    )
    target = joined(open_blocks(), *(linear(f"blocks.{x}.in_qkv_proj", 24, 8) for x in range(5)))
    (group,) = decide(source, target).open
    for hint in group.hints:
        other = "query_key_value -> q, k, v" if "in_qkv" in hint else "q, k, v -> in_qkv_proj"
        assert pairs_of(decide(source, target, hint, other)).keys() == target.keys()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 5)


def test_a_hint_that_agrees_with_what_is_decided_is_no_error():
    match = matched(Tied(), Tied(), hints=["a -> a"])
    assert not unloaded(match, Tied())
