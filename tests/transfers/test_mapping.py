"""A mapping that is written from a plan says what the plan says."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import make_network, write
from two_implementations import build

from surgery.errors import SurgeryError
from surgery.matching.lines.mapping import parse_mapping
from surgery.matching.recipes.arithmetic import LowRank, Sum
from surgery.matching.recipes.recipe import View, Zeros, join
from surgery.networks.describe import describe
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers import plan_transfer, transfer
from surgery.transfers.mapping import mapping_of
from surgery.transfers.plan import TransferPlan
from surgery.transfers.step import Step, Unused


def lines_of(text: str) -> list[str]:
    """What is no comment, arrows brought together."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [" -> ".join(side.strip() for side in line.split("->")) for line in lines]


def said(plan: TransferPlan) -> list[object]:
    """The plan without the texts of how it was found."""
    steps = [(s.target, s.recipe or s.source, s.state in ("fresh", "open")) for s in plan.steps]
    return [*steps, sorted(unused.source.name for unused in plan.unused)]


def written(plan: TransferPlan, source: SourceSpec, target: ModelSpec) -> list[str]:
    """The lines of the file, after it was planned by."""
    text = mapping_of(plan)
    assert said(plan_transfer(source, target, match="names", mapping=parse_mapping(text))) == said(
        plan
    )
    return lines_of(text)


def plan_of(steps: tuple[Step, ...], unused: tuple[Unused, ...], target: ModelSpec) -> TransferPlan:
    """A plan of these very steps."""
    other = plan_transfer([TensorSpec("of none", (1,), "float32")], target)
    return replace(other, steps=steps, unused=unused)


def by_hand(pairs: dict[str, str], source: list[str], target: list[str]):
    """A plan that loads target from source as ``pairs`` say; every tensor has one shape."""
    ours = {name: TensorSpec(name, (4,), "float32") for name in source}
    theirs = [TensorSpec(name, (4,), "float32") for name in target]
    steps = tuple(
        Step(spec, View.of(ours[pairs[spec.name]]), "loaded")
        if spec.name in pairs
        else Step(spec, None, "fresh")
        for spec in theirs
    )
    unused = tuple(Unused(ours[name], "unused") for name in source if name not in pairs.values())
    model = ModelSpec.from_tensors(theirs)
    plan = plan_of(steps, unused, model)
    return plan, SourceSpec(tuple(ours.values())), model


#: Two implementations, and the lines that the file may have there and back.
PAIRS = [
    ("tv:vgg16_bn", "timm:vgg16_bn", 5, 5),
    ("tv:mobilenet_v2", "timm:mobilenetv2_100", 31, 31),
    ("tv:mobilenet_v3_large", "timm:mobilenetv3_large_100", 34, 48),
    ("tv:efficientnet_b0", "timm:efficientnet_b0", 25, 25),
    ("tv:efficientnet_v2_s", "timm:efficientnetv2_s", 27, 24),
    ("tv:mnasnet1_0", "timm:mnasnet_100", 21, 21),
    ("tv:convnext_tiny", "timm:convnext_tiny", 18, 18),
    ("tv:regnet_y_400mf", "timm:regnety_004", 28, 28),
    ("tv:swin_t", "timm:swin_tiny_patch4_window7_224", 14, 14),
    ("tv:swin_v2_t", "timm:swinv2_tiny_window8_256", 22, 18),
    ("tv:vit_b_32", "timm:vit_base_patch32_224", 11, 11),
    ("tv:inception_v3", "timm:inception_v3", 0, 0),
    ("hf:vit", "timm:vit_base_patch16_224", 11, 15),
    ("hf:resnet", "timm:resnet50", 15, 15),
    ("hf:regnet", "timm:regnety_004", 29, 29),
    ("hf:convnext", "timm:convnext_tiny", 9, 9),
    ("hf:swin", "timm:swin_tiny_patch4_window7_224", 14, 18),
    ("hf:swinv2", "tv:swin_v2_t", 26, 43),
    ("hf:mobilenetv2", "timm:mobilenetv2_100", 30, 30),
]


@pytest.mark.parametrize(("one", "other", "there", "back"), PAIRS, ids=lambda value: str(value))
def test_two_implementations_both_ways_in_few_lines(one, other, there, back):
    described = {name: describe(build(name)) for name in (one, other)}
    for first, second, most in ((one, other, there), (other, one, back)):
        source = SourceSpec(described[first].tensors, described[first].ties)
        plan = plan_transfer(source, described[second], match="structure")
        assert plan.loaded_fraction > 0.5
        assert len(written(plan, source, described[second])) <= most


def test_a_vision_transformer_as_a_person_would_write_it():
    described = describe(build("hf:vit"))
    source = SourceSpec(described.tensors, described.ties)
    target = describe(timm.create_model("vit_base_patch16_224", num_classes=10))
    plan = plan_transfer(source, target, match="structure")
    text = mapping_of(plan)
    heading, first, *_ = text.split("\n\n")
    assert "stay fresh" in heading
    assert first.startswith("vit.embeddings.cls_token ")
    lines = lines_of(text)
    assert "vit.layernorm -> norm" in lines
    assert sum(" + " in line for line in lines) == 2
    assert text.splitlines()[-2:] == [
        "# fresh: head.{weight,bias} (10) or (10, 768)",
        "# unused: classifier.{weight,bias} (1000) or (1000, 768)",
    ]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_a_random_network_written_down_twice_is_planned_alike_by_its_file(seed):
    rng = random.Random(seed)
    network = make_network(rng)
    ours, theirs = write(network, rng), write(network, rng)
    source, target = SourceSpec(ours.specs), ModelSpec.from_tensors(theirs.specs)
    written(plan_transfer(source, target, match="structure"), source, target)


_NAMES = st.lists(
    st.lists(st.sampled_from(["a", "b", "0", "1", "2", "b1"]), min_size=1, max_size=4).map(
        ".".join
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=300, deadline=None)
@given(_NAMES, _NAMES, st.randoms(use_true_random=False))
def test_any_mapping_of_any_names_is_planned_alike_by_its_file(ours, theirs, rng):
    """However the names overlap: swaps, cycles, numbers alone, paths that are names too."""
    pairs = dict(zip(rng.sample(theirs, len(theirs)), rng.sample(ours, len(ours)), strict=False))
    for name in rng.sample(sorted(pairs), rng.randint(0, len(pairs))):
        del pairs[name]
    if pairs:
        written(*by_hand(pairs, ours, theirs))


@pytest.mark.parametrize(
    ("pairs", "unused", "fresh", "lines"),
    [
        pytest.param({"a.w": "a.w"}, [], [], [], id="nothing-changes"),
        pytest.param({"a.w": "b.w", "b.w": "a.w"}, [], [], ["b -> a", "a -> b"], id="swap"),
        pytest.param(
            {f"b.{n}.x.w": f"e.l.{n}.y.w" for n in range(3)}, [], [], ["e.l.*.y -> b.*.x"],
            id="a-number-carried-over",
        ),
        pytest.param(
            {f"b.{n}.w": f"layer_{n}.w" for n in range(3)}, [], [], ["layer_* -> b.*"],
            id="a-number-in-a-word",
        ),
        pytest.param(
            {f"b.{n + 1}.w": f"l.{n}.w" for n in range(3)}, [], [],
            ["l.0 -> b.1", "l.1 -> b.2", "l.2 -> b.3"], id="numbers-counted-from-elsewhere",
        ),
        pytest.param(
            {"2.w": "0.w", "0.w": "1.w"}, [], [], ["0 -> 2", "1 -> 0"], id="numbers-alone"
        ),
        pytest.param(
            {"norm.w": "ln.w", "b.0.norm.w": "b.0.norm.w", "b.0.ln.w": "b.0.ln.w"}, [], [],
            ["^ln -> norm"], id="held-to-the-beginning",
        ),
        pytest.param(
            {"x.w": "m.a.w", "y.w": "m.b.w", "y.b": "m.b.b"}, [], [],
            ["m.a -> x", "m.b -> y"], id="leaves-and-paths",
        ),
        pytest.param(
            {"x.w": "b.w"}, ["a.w", "a.b"], ["a.w"], ["a -> (unused)", "b -> x"],
            id="what-would-be-loaded-by-its-name",
        ),
        pytest.param(
            {"m.a": "z"}, ["a", "b", "c"], ["m.b", "m.c"],
            ["a -> (unused)", "b -> (unused)", "c -> (unused)", "z -> m.a"],
            id="what-another-nesting-would-load",
        ),
        pytest.param(
            {"x.a.w": "y.a.w", "x.a.b": "y.a.b"}, ["y.c.w"], ["x.c.w"],
            ["y.c -> (unused)", "y -> x"], id="what-a-line-would-load",
        ),
    ],
)  # fmt: skip
def test_lines(pairs, unused, fresh, lines):
    plan, source, target = by_hand(pairs, [*pairs.values(), *unused], [*pairs, *fresh])
    found = written(plan, source, target)
    assert sorted(found) == sorted(lines)


def test_wrapped_names_get_the_lines_of_the_network_itself():
    plain = {f"b.{n}.x.w": f"e.{n}.y.w" for n in range(3)} | {"norm.w": "ln.w"}
    pairs = {f"_orig_mod.{new}": f"module.{old}" for new, old in plain.items()}
    assert written(*by_hand(pairs, list(pairs.values()), list(pairs))) == [
        "e.*.y -> b.*.x",
        "ln -> norm",
    ]


def test_one_source_for_several_targets_is_copied():
    plan, source, target = by_hand({"wte.w": "wte.w", "head.w": "wte.w"}, ["wte.w"],
                                   ["wte.w", "head.w"])  # fmt: skip
    assert written(plan, source, target) == ["wte.w[:] -> wte.w", "wte.w[:] -> head.w"]


def test_a_tied_target_needs_one_of_its_names():
    plan, source, _ = by_hand({"wte.w": "emb.w", "head.w": "emb.w"}, ["emb.w"], ["wte.w", "head.w"])
    target = ModelSpec.from_tensors([s.target for s in plan.steps], ties=[("wte.w", "head.w")])
    plan = plan_of(plan.steps, plan.unused, target)
    assert written(plan, source, target) == ["emb -> wte"]


@pytest.mark.parametrize(
    "old", ["a+b.w", "a b.w", "é.w", "a->b.w", "# a.w", "a.*.w", "a\nb.w", "(a.w"]
)
def test_any_source_name_can_be_written(old):
    written(*by_hand({"x.w": old, "y.w": "y.w"}, [old, "y.w"], ["x.w", "y.w"]))


@pytest.mark.parametrize("old", ["(a.w", "a b.w", "a.*.w"])
def test_any_source_name_can_be_left_out(old):
    written(*by_hand({"y.w": "y.w"}, [old, "y.w"], [old, "y.w"]))


@pytest.mark.parametrize("new", ["a+b.w", "a b.w", "é.w", "a->b.w", r"a\1.w", "a.*.w", "(a.w"])
def test_target_names_that_can_be_written(new):
    written(*by_hand({new: "x.w"}, ["x.w"], [new]))


@pytest.mark.parametrize("new", [" a.w", "a #b", "a\nb.w", "a..b"])
def test_target_names_that_no_line_can_have_are_refused(new):
    with pytest.raises(SurgeryError, match="no (line|mapping)"):
        mapping_of(by_hand({new: "x.w"}, ["x.w"], [new])[0])


def test_a_recipe_with_a_name_that_it_cannot_have_is_refused():
    spec = TensorSpec("a+b", (4, 4), "float32")
    target = TensorSpec("x", (4, 4), "float32")
    step = Step(target, View.of(spec).permute((1, 0)), "loaded")
    plan = plan_of((step,), (), ModelSpec.from_tensors([target]))
    with pytest.raises(SurgeryError, match=r"no recipe of a mapping can have the name 'a\+b'"):
        mapping_of(plan)


def test_every_form_of_rows_is_written():
    source = {"a": (4, 6), "b": (4, 6), "c": (6, 4), "d": (5, 4), "e": (4, 1, 1), "z": (4,)}
    a, b, c, d, e, z = (
        View.of(TensorSpec(name, shape, "float32")) for name, shape in source.items()
    )
    made = {
        "joined": join([a, b]),
        "turned": a.permute((1, 0)),
        "third": c.rows(2, 4),
        "turned_third": a.permute((1, 0)).rows(4, 6),
        "some": d.rows(1, 3),
        "flat": e.reshape((4,)),
        "in_out": join([a, b]).permute((1, 0)),
        "zeros": join([Zeros((4,)), z]),
        "heads": join([a, b]).reorder((2, 4), (1, 0)),
        "merged": Sum((a, LowRank((d.rows(0, 4), c.permute((1, 0))), 0.5))),
    }
    targets = [
        TensorSpec(name, shape, "float32")
        for name, shape in ((n, r.shape) for n, r in made.items())
    ]
    steps = tuple(Step(spec, made[spec.name], "loaded") for spec in targets)
    target = ModelSpec.from_tensors(targets)
    plan = plan_of(steps, (), target)
    sources = tuple(view.source for view in (a, b, c, d, e, z))
    assert written(plan, SourceSpec(sources), target) == [
        "a + b -> joined",
        "a^T -> turned",
        "c[2/3] -> third",
        "a^T[3/3] -> turned_third",
        "d[1:3] -> some",
        "e[:] -> flat",
        "a + b -> in_out^T",
        "0 + z -> zeros",
        "reorder(a + b, 2x4, 1, 0) -> heads",
        "add(a, low_rank(d[0:4], c^T, 0.5)) -> merged",
    ]


def test_what_stays_open_is_in_the_comments():
    shapes = {"first.weight": (4, 3), "{}.weight": (4, 4), "{}.bias": (4,), "last.weight": (2, 4)}
    ours, theirs = (
        [
            TensorSpec(name.format(stem), shape, "float32")
            for name, shape in shapes.items()
            for stem in (stems if "{" in name else [""])
        ]
        for stems in (["apple", "pear"], ["stone", "river"])
    )
    plan = plan_transfer(ours, theirs, match="structure")
    text = mapping_of(plan)
    (said,) = [line for line in text.splitlines() if line.startswith("# left open: ")]
    assert "stone" in said
    assert " <- one of " in said


def test_a_misfit_keeps_its_name():
    source = SourceSpec((TensorSpec("classifier.weight", (7, 4), "float32"),))
    target = ModelSpec.from_tensors([TensorSpec("head.weight", (9, 4), "float32")])
    plan = plan_transfer(source, target, match="names", mapping="classifier -> head")
    assert written(plan, source, target) == ["classifier -> head"]


_PRINT = """
import random
from random_networks import make_network, write
from surgery.specs import ModelSpec, SourceSpec
from surgery.transfers import plan_transfer
from surgery.transfers.mapping import mapping_of
for seed in range(30):
    rng = random.Random(seed)
    network = make_network(rng)
    ours, theirs = write(network, rng), write(network, rng)
    source, target = SourceSpec(ours.specs), ModelSpec.from_tensors(theirs.specs)
    print(mapping_of(plan_transfer(source, target, match="structure")))
"""


def test_any_hash_seed_writes_the_same_file():
    def written_under(seed: str) -> str:
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", _PRINT]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return ran.stdout

    assert written_under("0") == written_under("1")


def test_the_file_loads_the_same_values():
    torch.manual_seed(0)
    old = build("hf:resnet18").state_dict()
    new = [build("tv:resnet18") for _ in range(2)]
    plan = plan_transfer(old, new[0], match="structure")
    text = mapping_of(plan)
    transfer(old, new[0], match="structure")
    transfer(old, new[1], match="names", mapping=text)
    for name, value in new[0].state_dict().items():
        assert torch.equal(value, new[1].state_dict()[name]), name


def test_a_bias_that_would_be_zeros_alone_stays_fresh_and_is_in_no_line():
    rest = {"norm.weight": (8,), "norm.bias": (8,), "up.weight": (16, 8), "down.weight": (8, 16)}
    fused = {"attn.qkv.weight": (24, 8), "attn.q_bias": (8,), "attn.v_bias": (8,)}
    apart = {f"attn.{part}_proj.weight": (8, 8) for part in "qkv"}
    apart |= {f"attn.{part}_proj.bias": (8,) for part in "qkv"}
    ours, theirs = (
        [
            TensorSpec(f"{stem}.{at}.{name}", shape, "float32")
            for at in range(3)
            for name, shape in (layer | rest).items()
        ]
        for stem, layer in (("blocks", fused), ("layers", apart))
    )
    source, target = SourceSpec(tuple(ours)), ModelSpec.from_tensors(theirs)
    plan = plan_transfer(source, target, match="structure")
    assert set(plan.names("fresh")) == {f"layers.{at}.attn.k_proj.bias" for at in range(3)}
    lines = written(plan, source, target)
    assert "blocks.*.attn.qkv.weight[2/3] -> layers.*.attn.k_proj.weight" in lines
    assert not any("k_proj.bias" in line for line in lines)
