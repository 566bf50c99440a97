"""Numbers that count other things on the two sides, and words that name two things."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
import torch
from torch import nn

import surgery
from surgery.specs import TensorSpec

#: What a layer is -> the shapes of its tensors.
Shapes = Mapping[str, tuple[int, ...]]
NORM: Shapes = {"weight": (16,), "bias": (16,)}
BLOCKS = range(3)
LEVELS = range(3)


def linear(outputs: int, inputs: int) -> Shapes:
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def conv(outputs: int, inputs: int, size: int = 3) -> Shapes:
    return {"weight": (outputs, inputs, size, size), "bias": (outputs,)}


def written(names: Mapping[str, str], layers: Mapping[str, Shapes]) -> dict[str, torch.Tensor]:
    """A state dict of ``layers``, each under its name; equal layers have equal values."""
    found = {}
    for layer, shapes in layers.items():
        for leaf, shape in shapes.items():
            generator = torch.Generator().manual_seed(sum(map(ord, layer + leaf)) * 1009)
            found[f"{names[layer]}.{leaf}"] = torch.randn(shape, generator=generator)
    return found


def decided(
    source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> tuple[set[str], set[str]]:
    """The names that are loaded with the values that they have, and with others."""
    specs = [TensorSpec(name, tuple(x.shape), "float32") for name, x in target.items()]
    plan = surgery.plan_transfer(source, specs, match="structure")
    loaded = {step.target.name: step.source.name for step in plan.steps if step.sources}
    right = {a for a, b in loaded.items() if torch.equal(target[a], source[b].view_as(target[a]))}
    return right, loaded.keys() - right


TRANSFORMER = {
    "tok": {"weight": (50, 16)},
    **{f"{i}.n1": NORM for i in BLOCKS},
    **{f"{i}.o": linear(16, 16) for i in BLOCKS},
    **{f"{i}.n2": NORM for i in BLOCKS},
    **{f"{i}.up": linear(64, 16) for i in BLOCKS},
    **{f"{i}.down": linear(16, 64) for i in BLOCKS},
    "head": linear(10, 16),
}


def _blocks(n1: str, o: str, n2: str, up: str, down: str) -> dict[str, str]:
    names = {"tok": "tok", "head": "head"}
    for i in BLOCKS:
        layers = {"n1": n1, "o": o, "n2": n2, "up": up, "down": down}
        names |= {f"{i}.{key}": name.format(i=i, j=i + 3) for key, name in layers.items()}
    return names


BLOCK_BY_BLOCK = [
    _blocks("h.{i}.ln_1", "h.{i}.o", "h.{i}.ln_2", "h.{i}.fc1", "h.{i}.fc2"),
    _blocks("l.{i}.0.norm", "l.{i}.0.o", "l.{i}.1.norm", "l.{i}.1.a", "l.{i}.1.b"),
]
KIND_BY_KIND = [
    _blocks("ln1s.{i}", "os.{i}", "ln2s.{i}", "ups.{i}", "downs.{i}"),
    _blocks("ln1_{i}", "o_{i}", "ln2_{i}", "up_{i}", "down_{i}"),
    _blocks("norms.{i}", "os.{i}", "norms.{j}", "ups.{i}", "downs.{i}"),
    _blocks("attn.{i}.norm", "attn.{i}.o", "mlp.{i}.norm", "mlp.{i}.a", "mlp.{i}.b"),
    _blocks("all.0.{i}.norm", "all.0.{i}.o", "all.1.{i}.norm", "all.1.{i}.a", "all.1.{i}.b"),
]


@pytest.mark.parametrize("block", BLOCK_BY_BLOCK)
@pytest.mark.parametrize("kind", KIND_BY_KIND)
def test_layers_kept_kind_by_kind_are_not_those_of_blocks_in_one_order(block, kind):
    one, other = written(block, TRANSFORMER), written(kind, TRANSFORMER)
    for source, target in ((one, other), (other, one)):
        assert not decided(source, target)[1]


def test_layers_of_blocks_are_mapped_whole_under_other_names():
    one, other = (written(names, TRANSFORMER) for names in BLOCK_BY_BLOCK)
    right, wrong = decided(one, other)
    assert right == other.keys()
    assert not wrong


PYRAMID = {
    **{f"{i}.body": conv(8, 16 * 2**i) for i in LEVELS},
    **{f"{i}.lateral": conv(16, 16 * 2**i, 1) for i in LEVELS},
    **{f"{i}.smooth": conv(16, 16) for i in LEVELS},
    "head": conv(9, 16),
}


def _levels(body: str, lateral: str, smooth: str) -> dict[str, str]:
    names = {"head": "head"}
    for i in LEVELS:
        layers = {"body": body, "lateral": lateral, "smooth": smooth}
        names |= {f"{i}.{key}": name.format(i=i, j=2 - i) for key, name in layers.items()}
    return names


UPWARDS = [
    _levels("body.{i}", "neck.lateral_convs.{i}", "neck.fpn_convs.{i}"),
    _levels("body.{i}", "P{i}_1", "P{i}_2"),
]
DOWNWARDS = [
    _levels("body.{i}", "latlayer{j}", "smooth{j}"),
    _levels("body.{i}", "fpn.{j}.lateral", "fpn.{j}.smooth"),
    _levels("body.{i}", "up.inner{j}", "up.outer{j}"),
]


@pytest.mark.parametrize("up", UPWARDS)
@pytest.mark.parametrize("down", DOWNWARDS)
def test_levels_that_shapes_pair_backwards_are_not_paired_forwards_beside(up, down):
    one, other = written(up, PYRAMID), written(down, PYRAMID)
    for source, target in ((one, other), (other, one)):
        right, wrong = decided(source, target)
        assert not wrong
        if up is UPWARDS[0]:
            assert len(right) == len(target) - 6  # all but the three that smooth


@pytest.mark.parametrize("names", [UPWARDS, DOWNWARDS])
def test_levels_counted_alike_are_open_where_no_shape_tells_it(names):
    one, other = written(names[0], PYRAMID), written(names[1], PYRAMID)
    right, wrong = decided(one, other)
    assert not wrong
    assert len(other.keys() - right) == 6  # the three that smooth
    assert decided(one, one) == (one.keys(), set())


U_NET = {
    **{f"{i}.down": conv(16, 3 if i == 0 else 16) for i in LEVELS},
    **{f"{i}.up": conv(16, 32) for i in LEVELS},
    "head": conv(2, 16, 1),
}


def _u(down: str, up: str, head: str) -> dict[str, str]:
    names = {"head": head}
    for i in LEVELS:
        names |= {f"{i}.down": down.format(i=i), f"{i}.up": up.format(i=i, j=2 - i)}
    return names


def test_levels_of_one_width_on_the_way_up_are_counted_from_either_end():
    by_level = written(_u("enc{i}", "dec{i}", "final"), U_NET)
    as_they_run = written(_u("down.{i}", "up{j}", "outc"), U_NET)
    for source, target in ((by_level, as_they_run), (as_they_run, by_level)):
        _, wrong = decided(source, target)
        assert not wrong
    same = written(_u("encoder.{i}", "dec{i}", "last"), U_NET)
    assert decided(by_level, same) == (same.keys(), set())


def _gated(gate: str, up: str, down: str) -> dict[str, torch.Tensor]:
    layers: dict[str, Shapes] = {"tok": {"weight": (50, 16)}, "norm": {"weight": (16,)}}
    names = {key: key for key in layers}
    for i in BLOCKS:
        layers |= {f"{i}.{key}": {"weight": (40, 16)} for key in ("gate", "up")}
        layers[f"{i}.down"] = {"weight": (16, 40)}
        for key, name in (("gate", gate), ("up", up), ("down", down)):
            names[f"{i}.{key}"] = f"layers.{i}.mlp.{name}"
    return written(names, layers)


@pytest.mark.parametrize("other", [("fc2", "fc1", "fc3"), ("b", "a", "c"), ("wi_1", "wi_0", "wo")])
def test_matrices_side_by_side_are_not_told_apart_by_numbers(other):
    one, two = _gated("w1", "w3", "w2"), _gated(*other)
    for source, target in ((one, two), (two, one)):
        _, wrong = decided(source, target)
        assert not wrong


def test_rows_of_numbered_matrices_are_joined_under_one_word_alone():
    apart = _gated("lin2", "lin1", "lin3")
    fused = {name.replace("lin3", "w3"): x for name, x in apart.items() if "lin" not in name[-12:]}
    fused |= {f"layers.{i}.mlp.w12.weight": torch.zeros(80, 16) for i in BLOCKS}
    fused |= {f"layers.{i}.mlp.w3.weight": torch.zeros(16, 40) for i in BLOCKS}
    specs = [TensorSpec(name, tuple(x.shape), "float32") for name, x in fused.items()]
    plan = surgery.plan_transfer(apart, specs, match="structure")
    assert not any("w12" in step.target.name for step in plan.steps if step.sources)


CLASSIFIER = {"first": linear(16, 4), "middle": linear(16, 16), "last": linear(16, 16)}


@pytest.mark.parametrize("other", [("stem", "hidden", "head"), ("l0", "proj", "fc")])
def test_a_layer_before_the_output_is_no_head_whatever_it_is_called(other):
    one = written({"first": "inp", "middle": "fc", "last": "out"}, CLASSIFIER)
    two = written(dict(zip(CLASSIFIER, other, strict=True)), CLASSIFIER)
    for source, target in ((one, two), (two, one)):
        assert not decided(source, target)[1]


def test_a_square_head_is_not_turned_because_blocks_are():
    """Blocks keep their matrices as (in, out), and the head outside of them need not."""
    blocks = {"tok": {"weight": (16, 16)}, "head": linear(16, 16)}
    blocks |= {f"{i}.qkv": linear(48, 16) for i in BLOCKS}
    blocks |= {f"{i}.o": linear(16, 16) for i in BLOCKS}
    names = {key: f"h.{key}" if "." in key else key for key in blocks}
    straight = written(names, blocks)
    turned = {
        name: x.T.contiguous() if x.ndim == 2 and name.startswith("h.") else x
        for name, x in straight.items()
    }
    for source, target in ((straight, turned), (turned, straight)):
        specs = [TensorSpec(name, tuple(x.shape), "float32") for name, x in target.items()]
        plan = surgery.plan_transfer(source, specs, match="structure")
        assert plan.by_target["head.weight"].state == "open"


class Cells(nn.Module):
    """A recurrent network written by hand, whose gates may come in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.cell = nn.ModuleDict({"x2h": nn.Linear(8, 64), "h2h": nn.Linear(16, 64)})
        self.out = nn.Linear(16, 5)


class Recurrent(nn.Module):
    def __init__(self, cell: bool = False) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, 8)
        self.rnn = nn.LSTMCell(8, 16) if cell else nn.LSTM(8, 16)
        self.fc = nn.Linear(16, 5)


def test_gates_of_recurrent_cells_are_copied_under_torchs_own_words_alone():
    for source, target in ((Recurrent(), Cells()), (Cells(), Recurrent())):
        plan = surgery.plan_transfer(source.state_dict(), target, match="structure")
        assert len(plan.open) == 2
        assert all("gates" in group.reason for group in plan.open)
    for source, target in ((Recurrent(), Recurrent(True)), (Recurrent(True), Recurrent())):
        plan = surgery.plan_transfer(source.state_dict(), target, match="structure")
        assert all(step.state == "loaded" for step in plan.steps)


def test_a_linear_layer_of_one_output_beside_others():
    one = {"body.weight": (32, 8), "policy.weight": (32, 32), "value.weight": (1, 32)}
    source = {name: torch.randn(shape) for name, shape in one.items()}
    specs = [TensorSpec(f"net.{name}", shape, "float32") for name, shape in one.items()]
    plan = surgery.plan_transfer(source, specs, match="structure")
    assert plan.by_target["net.value.weight"].source.name == "value.weight"


def test_what_is_refused_is_said_in_one_way_in_any_order_of_the_file():
    layers = {f"{i}.{key}": linear(16, 16) for i in BLOCKS for key in ("this", "that")}
    layers |= {f"head{i}": linear(i, 16) for i in range(2, 9)}
    source = written({key: key for key in layers}, layers)
    target = {name.replace("this", "kalo").replace("that", "rute"): x for name, x in source.items()}
    specs = [TensorSpec(name, tuple(x.shape), "float32") for name, x in target.items()]
    plans = []
    for seed in range(5):
        shuffled = random.Random(seed).sample(list(source.items()), len(source))
        plans.append(surgery.plan_transfer(dict(shuffled), specs, match="structure"))
    assert len({(plan.open, plan.steps) for plan in plans}) == 1
    assert plans[0].open
