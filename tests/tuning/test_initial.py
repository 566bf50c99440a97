"""Rules to start from: which layers they call the head, and how slow they make the lowest."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
import transformers
from tiny_models import TinyNet
from torch import nn

from surgery.heads import head_paths
from surgery.networks.describe import describe
from surgery.specs import ModelSpec, TensorSpec
from surgery.tuning import ParamGroups, initial_rules, resolve_groups


def timm_model(name: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **settings)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50)
    with torch.device("meta"):
        return transformers.GPT2LMHeadModel(config)


def faster_rcnn() -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn(
            weights=None, weights_backbone=None
        )


def head_line(text: str) -> str | None:
    found = re.search(r"^(.+) lr\*=5$", text, re.MULTILINE)
    return found and found[1]


def rates(groups: ParamGroups) -> list[float]:
    return [dict(group.hyper)["lr"] for group in groups.groups]


#: By its names alone, and with what the model says.
HEADS = {
    "distilled": (
        lambda: timm_model("deit_tiny_distilled_patch16_224"),
        "head, head_dist",
        "head, head_dist",
    ),
    "levit": (
        lambda: timm_model("levit_128s"),
        "head.linear, head_dist.linear",
        "head.linear, head_dist.linear",
    ),
    "vgg": (lambda: torchvision.models.vgg11().to("meta"), "classifier.6", "classifier.6"),
    "vit": (lambda: torchvision.models.vit_b_32().to("meta"), "heads.head", "heads.head"),
    "headless": (lambda: timm_model("vit_tiny_patch16_224", num_classes=0), None, None),
    "tied": (gpt2, None, None),
    "detection": (faster_rcnn, None, None),
    "no names": (lambda: nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)), None, "1"),
    "nothing else": (lambda: nn.ModuleDict({"fc": nn.Linear(2, 2)}), None, None),
}


@pytest.mark.parametrize("case", HEADS)
def test_heads(case: str) -> None:
    build, by_name, by_model = HEADS[case]
    model = build()
    spec = describe(model)
    for heads, expected in ((None, by_name), (head_paths(model), by_model)):
        text = initial_rules(spec, None, heads)
        assert head_line(text) == expected
        assert ("The head is new" in text) == ("freeze" in text) == (expected is not None)
        resolve_groups(spec, text)


def test_nothing_but_the_heads_is_all_of_them() -> None:
    spec = describe(timm_model("deit_tiny_distilled_patch16_224"))
    text = initial_rules(spec)
    (line,) = (line for line in text.splitlines() if line.startswith("# !"))
    assert line == "# !head & !head_dist freeze"
    groups = resolve_groups(spec, f"{text}{line[2:]}\n")
    trained = {
        name for group in groups.groups if group.when == "train" for name in group.param_names
    }
    assert trained == {
        f"{head}.{leaf}" for head in ("head", "head_dist") for leaf in ("weight", "bias")
    }


def test_heads_of_two_widths_are_not_guessed() -> None:
    rows = {"body.weight": (4, 4), "a.fc.weight": (3, 4), "b.fc.weight": (2, 4)}
    spec = ModelSpec.from_tensors(
        TensorSpec(name, shape, "float32") for name, shape in rows.items()
    )
    assert head_line(initial_rules(spec)) is None
    assert head_line(initial_rules(spec, heads=("a.fc",))) == "a.fc"


@pytest.mark.parametrize(
    "name", ["inception_v3", "test_resnet", "vit_tiny_patch16_224", "densenet121", "test_vit"]
)
def test_the_lowest_layers_still_learn(name: str) -> None:
    spec = describe(timm_model(name))
    text = initial_rules(spec)
    (decay,) = re.findall(r"^:all decay=(\S+)$", text, re.MULTILINE)
    assert 0.5 <= float(decay) <= 0.99
    lowest = min(rates(resolve_groups(spec, text)))
    assert lowest >= 4e-5
    (said,) = re.findall(r"^# lowest of \d+ at (\S+)\.$", text, re.MULTILINE)
    assert float(said) == pytest.approx(lowest, rel=0.05)


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "vit_relpos_small_patch16_224",
        "swin_tiny_patch4_window7_224",
        "beit_base_patch16_224",
        "levit_128s",
    ],
)
def test_what_timm_does_not_decay_is_not_decayed(name: str) -> None:
    model = timm_model(name)
    spec = describe(model)
    text = initial_rules(spec)
    decayed = {
        parameter
        for group in resolve_groups(spec, text).groups
        if dict(group.hyper)["weight_decay"]
        for parameter in group.param_names
    }
    spared = set(model.no_weight_decay())
    assert not [p for p in decayed if p in spared or p.rpartition(".")[2] in spared]


def test_positions_by_their_real_names() -> None:
    text = initial_rules(describe(timm_model("deit_tiny_distilled_patch16_224")))
    assert "\n:1d, cls_token, pos_embed, dist_token wd=0\n" in text
    swin = initial_rules(describe(timm_model("swin_tiny_patch4_window7_224")))
    assert "\n:1d, **.relative_position_bias_table wd=0\n" in swin
    assert "\n:1d wd=0\n" in initial_rules(describe(TinyNet()))


@pytest.mark.parametrize("name", ["base", "split", "schedule", "model", "default", "a b", "x+y"])
def test_names_that_rules_would_read_otherwise(name: str) -> None:
    model = nn.Sequential()
    for path in (name, "mid", "head"):
        model.add_module(path, nn.Linear(2, 2))
    text = initial_rules(describe(model), heads=["head"])
    groups = resolve_groups(model, text)
    found = {p: dict(g.hyper)["lr"] for g in groups.groups for p in g.param_names}
    assert found[f"{name}.weight"] < found["mid.weight"] < found["head.weight"]
    freezing = next(line for line in text.splitlines() if line.endswith(" freeze"))
    frozen = resolve_groups(model, f"base lr=1\n{freezing.removeprefix('# ')}")
    assert {p for g in frozen.groups if g.frozen for p in g.param_names} == {
        f"{name}.weight",
        f"{name}.bias",
    }
