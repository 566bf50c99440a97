"""What a plan may leave, what is refused, and that the options which are offered work."""

import re
import shlex

import pytest
import timm
import torch
import torchvision
from tiny_models import TinyNet, randomise, snapshot
from torch import nn

import surgery
from surgery.errors import SelectorError, TransferRefused


def refused(source, target, **wanted):
    before = snapshot(target)
    with pytest.raises(TransferRefused) as caught:
        surgery.transfer(source, target, **wanted)
    after = snapshot(target)
    assert all(torch.equal(before[name], after[name]) for name in before)
    return caught.value


def offered(error, option):
    """The values that an error offers for an option, as a shell would read them."""
    found = [line for line in error.details if f"--{option} " in line]
    return [shlex.split(line[line.index(f"--{option} ") :])[1] for line in found]


class Neck(nn.Module):
    """A backbone, a neck that no classifier has, and a head."""

    def __init__(self, blocks=2, num_classes=5):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.neck = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)) for _ in range(blocks)
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        features = self.backbone(images)
        for layer in self.neck:
            features = layer(features)
        return self.head(features.mean((2, 3)))


def without(model, *prefixes):
    return {k: v for k, v in model.state_dict().items() if not k.startswith(prefixes)}


def test_a_new_head_alone_is_no_reason_to_refuse():
    model = TinyNet(num_classes=5)
    outcome = surgery.transfer(randomise(TinyNet(num_classes=7)), model)
    assert outcome.fresh == ("fc.weight", "fc.bias")
    assert outcome.plan.head == outcome.fresh


def test_a_neck_is_named_whole_by_one_option_that_works():
    error = refused(without(Neck(), "neck"), Neck(num_classes=3))
    assert error.exit_code == 1
    assert "14 of 20 tensors" not in error.message
    assert offered(error, "fresh") == ["neck"]
    outcome = surgery.transfer(without(Neck(), "neck"), Neck(), fresh=offered(error, "fresh"))
    assert all(name.startswith("neck.") for name in outcome.fresh)


def test_a_share_that_is_given_is_asked_for_instead():
    source = without(Neck(), "neck")
    error = refused(source, Neck())
    (share,) = offered(error, "min-loaded")
    outcome = surgery.transfer(source, Neck(), min_loaded=float(share))
    assert outcome.loaded_fraction >= float(share)
    assert "99% of min_loaded" in refused(source, Neck(), min_loaded=0.99).message


def test_unused_names_of_one_reason_are_one_line_and_no_option_is_said_twice():
    source = timm.create_model("resnet18").state_dict()
    error = refused(source, timm.create_model("resnet50"))
    assert len(set(error.details)) == len(error.details)
    error = refused(source, timm.create_model("resnet18"), mapping="layer1 -> layr1")
    assert [line for line in error.details if "24 tensors" in line and "line 1" in line]


def test_what_the_model_recomputes_is_not_missed():
    source = {k: v for k, v in TinyNet().state_dict().items() if "num_batches" not in k}
    fresh = surgery.transfer(source, TinyNet(), strict=True).fresh
    assert fresh
    assert all(name.endswith("num_batches_tracked") for name in fresh)


def test_strict_lists_every_difference_and_takes_what_was_named():
    source, target = TinyNet(num_classes=7), TinyNet(num_classes=5)
    error = refused(source, target, strict=True)
    assert "strict: 4 tensors" in error.message
    assert "target fc.weight: shape differs: source (7, 8), target (5, 8)" in error.details
    assert (
        refused(source, target, strict=True, fresh=":head").message
        == refused(source, target, strict=True, fresh="fc").message
    )
    error = refused(source, target, strict=True, fresh="fc")
    assert "strict: 2 tensors" in error.message  # the source's head lies unused
    (line,) = (line for line in error.details if "--mapping" in line)
    named = {"fresh": "fc", "mapping": re.search(r"with '(.*)'", line)[1]}
    assert surgery.transfer(source, target, strict=True, **named).fresh == ("fc.weight", "fc.bias")


def test_nothing_fits():
    error = refused({"x.weight": torch.zeros(2)}, TinyNet(), min_loaded=0.0)
    assert error.message.startswith("not one tensor of the source fits")
    assert any("x.weight (2)" in line for line in error.details)
    error = refused({"x.weight": torch.zeros(2)}, TinyNet())
    assert not offered(error, "fresh") + offered(error, "min-loaded")  # neither would do


def test_a_share_that_is_offered_is_never_more_than_there_is():
    target = nn.ModuleDict({"wide": nn.Linear(500, 500), "thin": nn.Linear(2, 1)})
    source = nn.ModuleDict({"thin": nn.Linear(2, 1)})
    (share,) = offered(refused(source, target), "min-loaded")
    assert surgery.transfer(source, target, min_loaded=float(share)).loaded


def test_the_head_can_be_asked_about_and_named_where_nothing_of_it_is_fresh():
    plan = surgery.plan_transfer(TinyNet(7), TinyNet(5))
    assert [step.target.name for step in plan.select(":head")] == ["fc.weight", "fc.bias"]
    assert surgery.transfer(TinyNet(5), TinyNet(5), fresh=":head").fresh == ()


def test_a_pattern_of_fresh_that_is_no_tensors():
    with pytest.raises(SelectorError, match=r"'fcc'; did you mean fc"):
        surgery.transfer(TinyNet(7), TinyNet(5), fresh="fcc")


PASTED = {
    "deeper": (
        lambda: torchvision.models.resnet50(),
        lambda: torchvision.models.resnet101(),
        {"fresh": ["layer3.[6-9], layer3.1[0-9], layer3.2[0-2]"]},
    ),
    "larger-pictures": (
        lambda: timm.create_model("vit_tiny_patch16_224"),
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=384),
        {"resize": ["pos_embed"], "fresh": ["pos_embed"]},
    ),
    "one-channel": (
        lambda: torchvision.models.resnet18(),
        lambda: _grey(torchvision.models.resnet18()),
        {"resize": ["conv1"], "fresh": ["conv1"]},
    ),
    "more-words": (
        lambda: nn.ModuleDict({"wte": nn.Embedding(50, 8), "ln": nn.LayerNorm(8)}),
        lambda: nn.ModuleDict({"wte": nn.Embedding(60, 8), "ln": nn.LayerNorm(8)}),
        {"resize": ["wte"], "fresh": ["wte"]},
    ),
}


def _grey(model):
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


@pytest.mark.parametrize("case", PASTED)
def test_what_is_offered_works(case):
    make_source, make_target, options = PASTED[case]
    source = make_source()
    error = refused(source, make_target())
    for option, values in options.items():
        assert offered(error, option) == values
        outcome = surgery.transfer(source, make_target(), **{option: values})
        taken = outcome.resized if option == "resize" else outcome.fresh
        assert taken


def test_other_names_are_offered_structure_only_where_it_loads_more():
    new = {"stem": "first", "bn": "scale", "blocks": "layers", "fc": "out"}
    renamed = {
        ".".join(new.get(segment, segment) for segment in name.split(".")): value
        for name, value in TinyNet().state_dict().items()
    }
    error = refused(renamed, TinyNet())
    assert any("--match structure" in line for line in error.details)
    assert not any(
        "--match structure" in line for line in refused({"a": torch.zeros(3)}, Neck()).details
    )


def test_another_nesting_is_offered_the_line_that_loads_it():
    source = nn.ModuleDict({"enc": TinyNet()})
    target = nn.ModuleDict({"body": TinyNet()})
    error = refused(source, target)
    line = next(re.search(r"line '(.*?)'", d)[1] for d in error.details if "--mapping" in d)
    outcome = surgery.transfer(source, target, mapping=line)
    assert outcome.loaded_fraction == 1.0


def test_two_networks_that_both_fit_stay_open():
    error = refused(nn.ModuleDict({"q": TinyNet(), "k": TinyNet()}), TinyNet())
    assert "open" in error.message or "not one tensor" in error.message


def test_what_strict_offers_for_the_source_leaves_out_nothing_that_is_used():
    state = dict(TinyNet().state_dict())
    spare = {"blocks.9.fc.w": torch.ones(2), "a b.w": torch.ones(3), "stem2.weight": torch.ones(3)}
    spare |= {f"more{at}.w": torch.ones(1) for at in range(10)}
    error = refused(state | spare, TinyNet(), strict=True)
    (line,) = (line for line in error.details if "(unused)" in line)
    mapping = "\n".join(re.findall(r"'(\^.+? -> \(unused\))'", line))
    assert not surgery.transfer(state | spare, TinyNet(), strict=True, mapping=mapping).fresh


def test_of_networks_with_the_same_names_the_line_that_takes_one_is_offered():
    model = randomise(TinyNet(), 1)
    source = {f"teacher.{name}": torch.ones_like(v) for name, v in model.state_dict().items()}
    source |= {f"student.{name}": value for name, value in model.state_dict().items()}
    error = refused(source, TinyNet())
    lines = re.findall(r"with the line '(.+?)'", "".join(error.details))
    assert sorted(lines) == ["student -> ", "teacher -> "]
    target = TinyNet()
    surgery.transfer(source, target, mapping="student -> ")
    assert torch.equal(target.fc.weight, model.fc.weight)


class Pair(nn.Module):
    """Two layers that nothing but their names distinguishes."""

    def __init__(self, *names):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 9)
        for name in names:
            self.add_module(name, nn.Linear(4, 4))


def test_what_is_open_is_accepted_by_its_names_as_well():
    source, target = Pair("apple", "pear"), Pair("stone", "river")
    error = refused(source, target, match="structure", fresh="stone")
    assert any("--keep-open" in line for line in error.details)
    outcome = surgery.transfer(source, target, match="structure", fresh=["stone", "river"])
    assert set(outcome.fresh) == {"stone.weight", "stone.bias", "river.weight", "river.bias"}


def test_no_share_is_offered_where_it_would_be_refused_again():
    source, target = Pair("apple", "pear"), Pair("stone", "river", "more")
    source.more = nn.Linear(2, 2)
    error = refused(source, target, match="structure")
    assert not offered(error, "min-loaded")
    error = refused(without(TinyNet(), "stem"), TinyNet(), strict=True)
    assert offered(error, "fresh")
    assert not offered(error, "min-loaded")


def test_a_share_that_the_head_alone_misses_says_so():
    error = refused(TinyNet(num_classes=7), TinyNet(num_classes=5), min_loaded=1)
    assert any("fc" in line and "shape differs" in line for line in error.details)
    (share,) = offered(error, "min-loaded")
    surgery.transfer(TinyNet(num_classes=7), TinyNet(num_classes=5), min_loaded=float(share))
