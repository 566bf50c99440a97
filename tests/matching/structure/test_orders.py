"""What the code of both sides adds: module types, and orders that decided layers stand in."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from torch import nn
from two_implementations import calls_of, difference, load, matched, randomised, unloaded, with_eps

from surgery.matching.recipes.words import in_words
from surgery.networks.describe import describe


class Mix(nn.Module):
    """A block under chosen names: which norm is which no name tells."""

    def __init__(self, one: str, two: str, *, post: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.post = one, two, post
        names = [one, "mix", two, "up", "down"]
        made = {
            one: nn.LayerNorm(8), two: nn.LayerNorm(8), "mix": nn.Linear(8, 8),
            "up": nn.Linear(8, 12), "down": nn.Linear(12, 8),
        }  # fmt: skip
        for name in names:
            self.add_module(name, made[name])

    def forward(self, x):
        one, two = getattr(self, self.one), getattr(self, self.two)
        if self.post:
            x = one(x + self.mix(x))
            return two(x + self.down(self.up(x).relu()))
        x = x + self.mix(one(x))
        return x + self.down(self.up(two(x)).relu())


def network(*names, **options):
    return nn.Sequential(*(Mix(*names, **options) for _ in range(2)), nn.Linear(8, 3))


X = torch.randn(2, 8, dtype=torch.float64)


def with_code(source, target):
    return matched(
        source,
        target,
        source_model=describe(source),
        source_calls=calls_of(source, X.float()),
        target_calls=calls_of(target, X.float()),
    )


def test_layers_that_stand_between_decided_ones_in_all_orders_are_paired():
    source, target = network("kalo", "zivy"), network("rute", "mina")
    randomised(source, 1), randomised(target, 2)
    assert len(unloaded(matched(source, target), target)) == 8
    match = with_code(source, target)
    assert not unloaded(match, target)
    assert "between the same decided layers as they run" in str(match)
    load(match, source.state_dict(), target)
    assert difference(source, target, X) < 1e-9


def test_layers_in_other_gaps_stay_open():
    """Norms behind what they were before."""
    source, target = network("kalo", "zivy"), network("rute", "mina", post=True)
    assert len(unloaded(with_code(source, target), target)) == 8


def test_orders_veto_what_names_say_otherwise():
    source, target = network("norm1", "norm2"), network("norm2", "norm1")
    assert not any("norm" in step.target.name for step in with_code(source, target).steps)


class Gated(nn.Module):
    def __init__(self, gate: str, up: str) -> None:
        super().__init__()
        for name in (gate, up):
            self.add_module(name, nn.Linear(8, 12))
        self.gate, self.up, self.down = gate, up, nn.Linear(12, 8)

    def forward(self, x):
        return self.down(getattr(self, self.gate)(x).sigmoid() * getattr(self, self.up)(x))


def test_branches_with_nothing_decided_between_them_are_not_told_by_order():
    source = nn.Sequential(Gated("kalo", "zivy"), nn.Linear(8, 8), nn.Linear(8, 3))
    target = nn.Sequential(Gated("mina", "rute"), nn.Linear(8, 8), nn.Linear(8, 3))
    assert len(unloaded(with_code(source, target), target)) == 4


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = transformers.pytorch_utils.Conv1D(12, 8), nn.Linear(12, 8, bias=False)
        self.mix = transformers.pytorch_utils.Conv1D(8, 8)
        del self.up.bias, self.mix.bias
        self.up.register_parameter("bias", None)
        self.mix.register_parameter("bias", None)


class Straight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.mix = nn.Linear(8, 12, bias=False), nn.Linear(8, 8, bias=False)
        self.fc2 = nn.Linear(12, 8, bias=False)


def test_the_class_of_a_source_module_tells_that_it_is_stored_as_in_out():
    match = matched(Turned(), Straight(), source_model=describe(Turned()))
    operations = {s.target.name: in_words(s.recipe) for s in match.steps}
    assert operations["mix.weight"] == "transpose"


def test_code_of_both_sides_settles_the_norms_of_pyramid_transformers():
    config = transformers.PvtV2Config(depths=[1, 1, 1, 1], num_labels=10)
    source = randomised(transformers.PvtV2ForImageClassification(config), 1)
    target = randomised(timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1), num_classes=10), 2)
    picture = torch.randn(1, 3, 64, 64)
    calls = {"source_calls": calls_of(source, picture), "target_calls": calls_of(target, picture)}
    match = matched(source, target, source_model=describe(source), **calls)
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    assert difference(with_eps(source), with_eps(target), picture.double()) < 1e-9


class Encoder(nn.Module):
    """Post-norm blocks; ``ln`` is what it embeds, or what it puts out."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.tok, self.last = nn.Embedding(11, 8), last
        if not last:
            self.ln = nn.LayerNorm(8)
        self.blocks = nn.ModuleList(Mix("norm1", "norm2", post=True) for _ in range(2))
        if last:
            self.ln = nn.LayerNorm(8)

    def forward(self, words):
        x = self.tok(words) if self.last else self.ln(self.tok(words))
        for block in self.blocks:
            x = block(x)
        return self.ln(x) if self.last else x


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"words": nn.Embedding(11, 8), "norm": nn.LayerNorm(8)})
        self.layers = nn.ModuleList(Mix("norm1", "norm2", post=True) for _ in range(2))


@pytest.mark.parametrize("last", [False, True])
def test_the_norm_of_an_embedding_is_not_the_last_one(last):
    source, target = Embedded(), Encoder(last=last)
    calls = calls_of(target, torch.arange(11))
    for options in ({}, {"target_calls": calls}):
        assert unloaded(matched(source, target, **options), target) == {"ln.weight", "ln.bias"}
