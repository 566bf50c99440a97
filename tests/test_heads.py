"""The decision on small models: who is trusted, what is refused, what is kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper
from torch.nn.utils import prune

from surgery.errors import HeadError
from surgery.heads import HeadSwap, head_paths, plan_head, replace_head


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(self.fc1(self.norm(x)).relu())


class Net(nn.Module):
    """A trunk and a head that was written down first, as people do."""

    def __init__(self, classes: int = 6, bias: bool = True) -> None:
        super().__init__()
        self.num_classes = classes
        self.top = nn.Linear(8, classes, bias=bias)
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(2))
        self.norm = nn.LayerNorm(8)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.features(x)).view(x.shape[0], -1)


class Branching(Net):
    """Cannot be traced: its forward asks for values."""

    def __init__(self, name: str = "head", classes: int = 6) -> None:
        super().__init__(classes)
        del self.top, self.num_classes
        self.name = name
        setattr(self, name, nn.Linear(8, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            x = x / 2
        return getattr(self, self.name)(self.features(x))


class Distilled(Net):
    """Two heads: a pair in training, their mean in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.top_dist = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.features(x)
        if self.training:
            return self.top(x), self.top_dist(x)
        return (self.top(x) + self.top_dist(x)) / 2


class Supervised(Net):
    """A helper in training only, under a name that says nothing; and another task's output."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6))
        self.rotation = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        side = self.helper(x), self.rotation(x)
        return (self.top(x), *side) if self.training else self.top(x)


class Returning(Net):
    """Net, with something else made of its features and logits."""

    def __init__(self, end: Callable[[Net, torch.Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.end = end
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(self, self.features(x))


class Cosine(nn.Linear):
    """A subclass with a setting and a scalar of its own."""

    def __init__(self, inputs: int, outputs: int, scale: float) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.scale = scale
        self.sigma = nn.Parameter(torch.full((1,), scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize
        return self.sigma * nn.functional.linear(unit(x, dim=-1), unit(self.weight, dim=-1))


class PerClassScale(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(outputs))


def paths(swap: HeadSwap) -> list[str]:
    return [layer.path for layer in swap.layers]


def inputs(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


# --- own modules: the head is where the output comes from ---------------------------------------


OWN_MODULES = {
    "registered first": (Net, ["top"]),
    "last of a Sequential": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 6)),
        ["3"],
    ),
    "several layers, the last one changes": (
        lambda: Returning(
            lambda net, x: net.mlp(x),
            mlp=nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6)),
        ),
        ["mlp.2"],
    ),
    "a learned temperature behind it": (
        lambda: Returning(lambda net, x: net.act(net.top(x)), act=nn.PReLU()),
        ["top"],
    ),
    "logits and features": (lambda: Returning(lambda net, x: (net.top(x), x)), ["top"]),
    "logits and predictions": (
        lambda: Returning(lambda net, x: {"y": net.top(x), "p": net.top(x).softmax(-1)}),
        ["top"],
    ),
    "two that are averaged": (Distilled, ["top", "top_dist"]),
    "a helper in training": (Supervised, ["top", "helper.1"]),
    "a helper called auxiliary": (
        lambda: Returning(lambda net, x: net.top(x), auxiliary=nn.Linear(8, 6)),
        ["top", "auxiliary"],
    ),
    "untraceable, called head": (Branching, ["head"]),
    "untraceable, called lm_head": (lambda: Branching("my_fc"), ["my_fc"]),
    "checkpointed": (
        lambda: nn.Sequential(
            nn.Linear(4, 8), checkpoint_wrapper.checkpoint_wrapper(nn.Linear(8, 6))
        ),
        ["1"],
    ),
}


@pytest.mark.parametrize("case", OWN_MODULES)
def test_own_modules(case: str) -> None:
    build, expected = OWN_MODULES[case]
    model = build()
    swap = replace_head(model, 3)
    assert paths(swap) == expected
    for mode in (False, True):
        out = model.train(mode)(inputs())
        first = next(iter(out.values())) if isinstance(out, dict) else out
        assert (first[0] if isinstance(first, tuple) else first).shape == (3, 3)


def test_auxiliary_layers_say_so() -> None:
    swap = plan_head(Supervised(), 3)
    assert [layer.auxiliary for layer in swap.layers] == [False, True]
    assert "training" in swap.layers[1].reason


def test_another_task_is_no_helper() -> None:
    """As wide as the head in training, but part of an output in evaluation as well."""
    model = Returning(
        lambda net, x: (
            (net.classifier(x), net.digit(x), net.box(x))
            if net.training
            else (net.classifier(x), torch.cat([net.digit(x), net.box(x)], -1))
        ),
        classifier=nn.Linear(8, 6),
        digit=nn.Linear(8, 6),
        box=nn.Linear(8, 4),
    )
    del model.num_classes
    assert paths(plan_head(model, 3)) == ["classifier"]


def _two_tasks_of_one_width() -> nn.Module:
    model = Returning(
        lambda net, x: (net.classifier(x), net.digit(x)),
        classifier=nn.Linear(8, 6),
        digit=nn.Linear(8, 6),
    )
    del model.num_classes
    return model


DOUBTFUL = {
    "two tasks, one called like a head": _two_tasks_of_one_width,
    "two tasks": lambda: Returning(
        lambda net, x: (net.top(x), net.other(x)), other=nn.Linear(8, 6)
    ),
    "side by side": lambda: Returning(
        lambda net, x: torch.cat([net.top(x), net.other(x)], -1), other=nn.Linear(8, 6)
    ),
    "a norm behind the head": lambda: Returning(
        lambda net, x: net.bn(net.top(x)), bn=nn.BatchNorm1d(6)
    ),
    "residual": lambda: Block(8),
    "stated otherwise": lambda: Returning(lambda net, x: net.embed(x), embed=nn.Linear(8, 5)),
    "a backbone": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
    "untraceable, no name": lambda: Branching("top"),
    "untraceable, two": lambda: Returning(
        lambda net, x: net.head_a(x) if x.sum() else net.head_b(x),
        head_a=nn.Linear(8, 6),
        head_b=nn.Linear(8, 6),
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_doubt_lists_candidates(case: str) -> None:
    with pytest.raises(HeadError, match='pass head="path"') as caught:
        plan_head(DOUBTFUL[case](), 3)
    assert any("candidate: " in line and " -> " in line for line in caught.value.details)


def test_no_candidate_at_all() -> None:
    with pytest.raises(HeadError, match="no Linear or convolution"):
        plan_head(nn.Sequential(nn.ReLU()), 3)


# --- head="path" --------------------------------------------------------------------------------


def test_a_given_path_is_the_only_one_replaced() -> None:
    model = Distilled()
    assert paths(replace_head(model, 3, head="top_dist")) == ["top_dist"]
    assert model.top.out_features == 6


def test_a_container_stands_for_its_last_layer() -> None:
    assert paths(plan_head(torchvision.models.alexnet(), 3, head="classifier")) == ["classifier.6"]


def test_several_given_paths() -> None:
    assert paths(plan_head(Distilled(), 3, head=("top", "top_dist"))) == ["top", "top_dist"]
    with pytest.raises(HeadError, match="one number of classes"):
        plan_head(Supervised(), 3, head=("top", "rotation"))
    with pytest.raises(HeadError, match="names no layer"):
        plan_head(Supervised(), 3, head=())


def test_a_wrong_path_names_the_nearest() -> None:
    with pytest.raises(HeadError, match=r"head='tap'; did you mean top"):
        plan_head(Net(), 3, head="tap")


# --- what a new layer keeps ---------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_new_layer_is_like_the_old(
    bias: bool, dtype: torch.dtype, device: str, trainable: bool, training: bool
) -> None:
    model = Net(bias=bias).to(device, dtype).train(training)
    model.top.requires_grad_(trainable)
    old = model.top
    swap = replace_head(model, 3)
    new = model.top
    assert type(new) is nn.Linear
    assert (new.bias is not None) == bias == swap.layers[0].bias
    assert (new.weight.dtype, new.weight.device.type) == (dtype, device)
    assert new.weight.requires_grad == trainable
    assert new.training == training
    assert (new.in_features, new.out_features, model.num_classes) == (8, 3, 3)
    assert (old.out_features, old.weight.shape) == (6, (6, 8))
    assert ("frozen" in str(swap)) == (not trainable)


def test_hooks_move_to_the_new_layer() -> None:
    model = Net()
    seen: list[torch.Size] = []
    handle = model.top.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    replace_head(model, 3)
    model(inputs())
    handle.remove()
    model(inputs())
    assert seen == [(3, 3)]


def test_a_head_compiled_in_place_does_not_run_on() -> None:
    model = Net()
    model.top.compile(backend="eager")
    replace_head(model, 3)
    assert model(inputs()).shape == (3, 3)


def test_a_subclass_keeps_its_class_and_settings() -> None:
    model = nn.Sequential(nn.Linear(4, 8), Cosine(8, 6, scale=5.0))
    swap = replace_head(model, 3)
    head = model[1]
    assert type(head) is Cosine
    assert swap.layers[0].kind == "Cosine"
    assert head.scale == head.sigma.item() == 5.0
    assert model(inputs()).shape == (3, 3)


def test_convolutions_keep_their_settings() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 1, bias=False), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    replace_head(model, 3)
    assert (type(model[0]), model[0].bias, model[0].out_channels) == (nn.Conv1d, None, 3)
    assert model(torch.randn(2, 4, 5)).shape == (2, 3)


def test_a_model_that_initialises_its_modules_initialises_the_head() -> None:
    class Initialised(Net):
        def _init_weights(self, module: nn.Module) -> None:
            nn.init.constant_(module.weight, 0.25)  # type: ignore[arg-type]

    class Otherwise(Net):
        def _init_weights(self, zero_last: bool = False) -> None:
            raise AssertionError

    model, other = Initialised(), Otherwise()
    replace_head(model, 3, keep={1: 4})
    replace_head(other, 3)
    assert (model.top.weight[0] == 0.25).all()
    assert (model.top.weight[1] != 0.25).any()


def test_a_head_under_two_names_stays_one() -> None:
    model = Net()
    model.classifier = model.top
    assert paths(replace_head(model, 3)) == ["top"]
    assert model.classifier is model.top


# --- what cannot be rebuilt is refused by name --------------------------------------------------


def _tied() -> nn.Module:
    model = Returning(lambda net, x: net.top(x), embed=nn.Embedding(6, 8))
    model.embed.weight = model.top.weight
    return model


def _with_top(change: Callable[[nn.Linear], object]) -> nn.Module:
    model = Net()
    change(model.top)
    return model


def _patched(layer: nn.Linear) -> None:
    layer.forward = layer.forward  # type: ignore[method-assign]


def _lora(layer: nn.Linear) -> None:
    layer.lora_down = nn.Linear(8, 2)


def _quantised(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)


def _old_weight_norm(layer: nn.Linear) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(layer)


REFUSED = {
    "tied": (_tied, "top", "tied to embed.weight"),
    "weight norm": (
        lambda: _with_top(nn.utils.parametrizations.weight_norm),
        "top",
        "weight is computed .*parametrizations.weight.original0",
    ),
    "old weight norm": (lambda: _with_top(_old_weight_norm), "top", "weight_g"),
    "pruned": (
        lambda: _with_top(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
        "top",
        "weight_mask",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(6)), "0", "has not seen an input"),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(4, 6, 1, groups=2)), "0", "grouped"),
    "per class": (lambda: nn.Sequential(PerClassScale(8, 6)), "0", "gain also has 6 entries"),
    "itself": (lambda: nn.Linear(8, 6), "", "nothing but this layer"),
    "compiled": (
        lambda: nn.Sequential(nn.Linear(4, 8), torch.compile(nn.Linear(8, 6), backend="eager")),
        "1",
        "compiled by itself",
    ),
    "patched forward": (lambda: _with_top(_patched), "top", "forward was replaced"),
    "low rank": (lambda: _with_top(_lora), "top", "holds another module, lora_down"),
    "quantised": (lambda: _with_top(_quantised), "top", "stores its weight as 24x1 uint8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    build, head, reason = REFUSED[case]
    with pytest.raises(HeadError, match=reason):
        plan_head(build(), 3, head=head)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Net, "the class Net: pass an instance"),
        ({}, "a dict"),
        (paths, "a function"),
        (None, "a N"),
    ],
)
def test_a_model_is_a_module(model: Any, what: str) -> None:
    with pytest.raises(HeadError, match=f"model is an nn.Module, not {what}"):
        plan_head(model, 3)
    with pytest.raises(HeadError, match=what):
        plan_head(Net(), 3).apply(model)


def test_a_lazy_model_is_to_be_run_first() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(6))
    with pytest.raises(HeadError, match="run it on one batch first") as caught:
        plan_head(model, 3)
    assert "2.weight" in caught.value.details
    model(torch.zeros(1, 3, 5, 5))
    assert paths(plan_head(model, 3)) == ["2"]


@pytest.mark.parametrize("count", [-1, 2.0, "3", True, None])
def test_a_count_is_a_whole_number(count: Any) -> None:
    with pytest.raises(HeadError, match="num_classes is"):
        plan_head(Net(), count)


# --- class rows ---------------------------------------------------------------------------------


def test_kept_classes_give_the_old_logits() -> None:
    model = Distilled().double().train()
    x = inputs().double()
    before = model(x)
    swap = replace_head(model, 4, keep={3: 0, 1: 5})
    assert swap.kept == ((1, 5), (3, 0))
    for old, new in zip(before, model(x), strict=True):
        torch.testing.assert_close(new[:, [1, 3]], old[:, [5, 0]], rtol=0, atol=1e-12)
        assert (new[:, 0] - old[:, 0]).abs().max() > 1e-3


def test_indices_may_come_from_numpy() -> None:
    swap = plan_head(Net(), np.int64(3), keep={np.int64(1): np.int64(5)})
    assert json.loads(json.dumps(swap.kept)) == [[1, 5]]


def test_shared_labels_keep_their_rows() -> None:
    old, new = ["cat", "dog", "owl", "eel", "ant", "bee"], ["bee", "yak", "cat"]
    swap = plan_head(Net(), 3, old_labels=old, new_labels=new)
    assert swap.kept == ((0, 5), (2, 0))
    assert swap.labels == ("bee", "yak", "cat")
    assert "class rows carried over: 2 of 3 (0 from 5, 2 from 0)" in str(swap)


def test_labels_by_index_are_ordered_by_it() -> None:
    old = dict(reversed([*enumerate("abcdef")]))
    swap = plan_head(Net(), 3, old_labels=old, new_labels={1: "yak", 0: "f", 2: "a"})
    assert swap.kept == ((0, 5), (2, 0))
    assert swap.labels == ("f", "yak", "a")


def test_a_matching_count_keeps_nothing() -> None:
    model = Net()
    old = model.top
    assert replace_head(model, 6).kept == ()
    assert model.top is not old
    assert not (model.top.weight == old.weight).any()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_row_is_where_the_map_says(data: st.DataObject) -> None:
    old_classes = data.draw(st.integers(1, 7))
    new_classes = data.draw(st.integers(1, 7))
    rows = st.integers(0, old_classes - 1)
    keep = data.draw(st.dictionaries(st.integers(0, new_classes - 1), rows))
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, old_classes))
    old = model[1]
    swap = replace_head(model, new_classes, keep=keep)
    new = model[1]
    assert dict(swap.kept) == keep
    for row in range(new_classes):
        if row in keep:
            assert torch.equal(new.weight[row], old.weight[keep[row]])
            assert new.bias[row] == old.bias[keep[row]]
        else:
            assert not (new.weight[row] == old.weight).all(dim=1).any()


@given(st.permutations("abcdef"), st.sets(st.sampled_from("abcdefgh")), st.sampled_from("abcdef"))
@settings(deadline=None)
def test_labels_and_keep_say_the_same(old: list[str], new: set[str], shared: str) -> None:
    new = {*new, shared}
    labels = sorted(new)
    by_labels = plan_head(Net(), len(labels), old_labels=old, new_labels=labels)
    keep = {labels.index(label): old.index(label) for label in new & set(old)}
    assert by_labels.kept == plan_head(Net(), len(labels), keep=keep).kept


SIX = list("abcdef")
WRONG_ROWS = {
    "new out of range": ({"keep": {3: 0}}, r"there is no new class 3"),
    "old out of range": ({"keep": {0: 6}}, r"there is no old class 6"),
    "negative": ({"keep": {0: -1}}, r"there is no old class -1"),
    "not an index": ({"keep": {"cat": 0}}, r"there is no new class 'cat'"),
    "duplicate": (
        {"old_labels": [*"abcde", "a"], "new_labels": [*"xyz"]},
        r"old_labels holds 'a' 2 times",
    ),
    "too few": ({"old_labels": [*"abc"], "new_labels": [*"xyz"]}, r"3 labels for 6 classes"),
    "too many": ({"old_labels": SIX, "new_labels": SIX}, r"new_labels has 6 labels for 3"),
    "one list": ({"new_labels": [*"xyz"]}, r"old_labels is missing"),
    "the other list": ({"old_labels": SIX}, r"new_labels is missing"),
    "both ways": ({"keep": {0: 0}, "old_labels": SIX, "new_labels": [*"xyz"]}, "one of them"),
    "nothing shared": (
        {"old_labels": SIX, "new_labels": [*"xyz"]},
        r"old_labels and new_labels share no label \(first: 'a' / 'x'\)",
    ),
    "keep as a list": ({"keep": [3, 7]}, r"keep is \{new_index: old_index\}, not \[3, 7\]"),
    "one text": ({"old_labels": "abcdef", "new_labels": [*"abc"]}, "old_labels is a list"),
    "no order": ({"old_labels": SIX, "new_labels": {*"abc"}}, "new_labels is a list of labels"),
    "no list": ({"old_labels": 6, "new_labels": [*"abc"]}, "old_labels is a list of labels"),
    "no text": (
        {"old_labels": SIX, "new_labels": ["a", ["b"], 3]},
        r"\['b'\] is no text\n.*3 is no",
    ),
    "numbered from 1": (
        {"old_labels": SIX, "new_labels": {1: "a", 2: "b", 3: "c"}},
        "does not number its 3 labels from 0\n.*3 is none of 0 to 2",
    ),
    "numbered in text": (
        {"old_labels": SIX, "new_labels": {"0": "a", "1": "b", "2": "c"}},
        "'0' is none of 0 to 2",
    ),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_wrong_rows(case: str) -> None:
    arguments, reason = WRONG_ROWS[case]
    with pytest.raises(HeadError, match=reason):
        plan_head(Net(), 3, **arguments)


def test_all_wrong_rows_are_named_at_once() -> None:
    with pytest.raises(HeadError) as caught:
        plan_head(Net(), 3, keep={7: 0, 0: 9})
    assert len(caught.value.details) == 2


# --- planning, applying, again ------------------------------------------------------------------


def test_planning_touches_nothing() -> None:
    model = Supervised().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules, state = list(model.modules()), torch.get_rng_state()
    plan_head(model, 3)
    assert list(model.modules()) == modules
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


PATHS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "one": (Net, ("top",)),
    "wrapped": (lambda: nn.DataParallel(Net()), ("top",)),
    "a helper": (Supervised, ("top", "helper.1")),
    "doubt": (lambda: Block(8), ()),
    "tied": (lambda: _tied(), ()),
    "no candidate": (nn.ReLU, ()),
    "timm, distilled": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224"),
        ("head", "head_dist"),
    ),
    "timm, none yet": (lambda: timm.create_model("test_vit", num_classes=0), ()),
    "detection": (
        lambda: torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn(
            weights=None, weights_backbone=None
        ),
        (),
    ),
}


@pytest.mark.parametrize("case", PATHS)
def test_paths_for_rules(case: str) -> None:
    build, expected = PATHS[case]
    assert head_paths(build()) == expected


def test_equal_swaps_are_equal() -> None:
    swaps = [plan_head(Net(), 3, keep={0: 5}) for _ in range(2)]
    assert swaps[0] == swaps[1]
    assert hash(swaps[0]) == hash(swaps[1])


def test_the_text_says_what_happens() -> None:
    assert str(plan_head(Net(), 3)).splitlines() == [
        "top: Linear 8 -> 6 becomes Linear 8 -> 3 (the output comes through it)",
        "class rows carried over: none, all 3 are fresh",
        "note: make the optimizer after this, one made before holds the old head's parameters",
    ]


def test_the_text_stays_short() -> None:
    swap = plan_head(Net(classes=500), 400, keep={row: row for row in range(300)})
    assert str(swap).splitlines()[1].startswith("class rows carried over: 300 of 400 (0 from 0, ")
    assert max(map(len, str(swap).splitlines())) < 140


def test_a_swap_for_another_model_changes_nothing() -> None:
    swap = plan_head(Distilled(), 3)
    model = Net(classes=9)
    with pytest.raises(HeadError, match="another model") as caught:
        swap.apply(model)
    assert len(caught.value.details) == 2
    assert model.top.out_features == 9


def test_again_and_through_a_file(tmp_path: Any) -> None:
    model = Net()
    replace_head(model, 10)
    swap = replace_head(model, 5)
    assert (swap.layers[0].old_classes, model.num_classes) == (10, 5)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    fresh = Net(classes=5)
    fresh.load_state_dict(torch.load(tmp_path / "net.pt"))
    assert torch.equal(fresh(inputs()), model(inputs()))
    assert torch.equal(copy.deepcopy(model)(inputs()), model(inputs()))


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda m: torch.compile(m, backend="eager")],
    ids=["DataParallel", "compile"],
)
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = Net()
    wrapped = wrap(model)
    wrapped(inputs())
    assert paths(replace_head(wrapped, 3)) == ["top"]
    assert wrapped(inputs()).shape == (3, 3)
    assert model.top.out_features == 3


def test_ddp_is_to_be_made_again() -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        swap = plan_head(nn.parallel.DistributedDataParallel(Net()), 3)
    finally:
        dist.destroy_process_group()
    assert "wrapped in DistributedDataParallel: wrap again" in str(swap)


# --- features -----------------------------------------------------------------------------------


def test_no_classes_give_features() -> None:
    model = Net().eval()
    swap = replace_head(model, 0)
    assert isinstance(model.top, nn.Identity)
    assert model.num_classes == 0
    assert torch.equal(model(inputs()), model.features(inputs()))
    assert "becomes Identity" in str(swap)
    with pytest.raises(HeadError, match="states 0 classes"):
        plan_head(model, 3)


def test_features_of_a_convolution_head_are_pooled() -> None:
    model = torchvision.models.squeezenet1_1().eval()
    replace_head(model, 0)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 512)


def test_timm_headless_gets_a_head_and_loses_it() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    features = model(x)
    swap = replace_head(model, 10)
    assert str(swap).startswith("head: Identity becomes Linear 192 -> 10")
    assert model(x).shape == (2, 10)
    with pytest.raises(HeadError, match="another model"):
        swap.apply(model)
    replace_head(model, 0)
    assert torch.equal(model(x), features)
    with pytest.raises(HeadError, match="no head"):
        plan_head(model, 0)
    with pytest.raises(HeadError, match="there is no old class 0"):
        plan_head(model, 3, keep={0: 0})


def test_timm_head_that_somebody_changed() -> None:
    model = timm.create_model("test_resnet")
    width = model.fc.in_features
    model.fc = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 5))
    assert paths(replace_head(model, 3)) == ["fc.2"]
    model.fc = Block(width)
    with pytest.raises(HeadError, match="cannot rebuild a head of class Block"):
        plan_head(model, 3)


@pytest.mark.parametrize("head", [None, "fc.2"])
def test_timm_counts_follow_a_head_put_on_by_hand(head: str | None) -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    model.fc = nn.Sequential(nn.Linear(model.fc.in_features, 64), nn.ReLU(), nn.Linear(64, 20))
    replace_head(model, 5, head=head)
    assert (model.num_classes, model.fc[2].out_features) == (5, 5)


# --- transformers -------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 7,
}
IMAGE = {"image_size": 32, "patch_size": 16}
TEXT = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ViT": ("ViTForImageClassification", {**SMALL, **IMAGE}, ["classifier"]),
    "DeiT": (
        "DeiTForImageClassificationWithTeacher",
        {**SMALL, **IMAGE},
        ["cls_classifier", "distillation_classifier"],
    ),
    "ResNet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 7},
        ["classifier.1"],
    ),
    "Swin": (
        "SwinForImageClassification",
        {"image_size": 32, "embed_dim": 8, "depths": [1], "num_heads": [1], "num_labels": 7},
        ["classifier"],
    ),
    "ConvNext": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 7},
        ["classifier"],
    ),
    "Bert": ("BertForSequenceClassification", {**SMALL, **TEXT}, ["classifier"]),
    "GPT2": (
        "GPT2ForSequenceClassification",
        {**TEXT, "n_embd": 32, "n_layer": 1, "n_head": 2, "num_labels": 7},
        ["score"],
    ),
    # As wide inside its head as the hidden size: only the last layer is the one.
    "Roberta": (
        "RobertaForSequenceClassification",
        {**SMALL, **TEXT, "num_labels": 32},
        ["classifier.out_proj"],
    ),
}


def from_transformers(name: str, **settings: Any) -> Any:
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    return kind(kind.config_class(**settings)).eval()


def logits(model: Any) -> torch.Tensor:
    if model.main_input_name == "input_ids":
        return model(input_ids=torch.tensor([[1, 5, 2], [1, 9, 2]])).logits
    return model(pixel_values=torch.ones(2, 3, 32, 32)).logits


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_transformers(case: str, tmp_path: Any) -> None:
    name, settings, expected = TRANSFORMERS[case]
    model = from_transformers(name, **settings)
    before = logits(model)
    swap = replace_head(model, 3, keep={2: 4})
    assert (swap.how, paths(swap)) == ("transformers", expected)
    assert (model.config.num_labels, model.num_labels) == (3, 3)
    assert list(model.config.label2id) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    torch.testing.assert_close(logits(model)[:, 2], before[:, 4])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again), logits(model))


def test_transformers_class_names() -> None:
    model = from_transformers("BertForSequenceClassification", **SMALL, **TEXT)
    replace_head(model, 2, old_labels=[*"abcdefg"], new_labels=["g", "z"])
    assert model.config.id2label == {0: "g", 1: "z"}
    model.config.problem_type = "single_label_classification"
    replace_head(model, 1)
    assert model.config.problem_type is None


def test_transformers_features() -> None:
    model = from_transformers("ViTForImageClassification", **SMALL, **IMAGE)
    replace_head(model, 0)
    assert logits(model).shape == (2, 32)
    assert model.config.num_labels == 0


def test_transformers_class_names_as_the_config_has_them() -> None:
    model = from_transformers("BertForSequenceClassification", **SMALL, **TEXT)
    model.config.id2label = dict(enumerate("abcdefg"))
    new = {0: "pos", 1: "g", 2: "x", 3: "y"}
    swap = replace_head(model, 4, old_labels=model.config.id2label, new_labels=new)
    assert swap.kept == ((1, 6),)
    assert model.config.id2label == new


def test_answers_are_no_classes() -> None:
    model = from_transformers("BertForQuestionAnswering", **{**SMALL, **TEXT, "num_labels": 2})
    with pytest.raises(HeadError, match="made for QuestionAnswering, which is no classification"):
        plan_head(model, 3)
    assert paths(plan_head(model, 3, head="qa_outputs")) == ["qa_outputs"]


def test_boxes_are_no_classes() -> None:
    """As many sides as there are classes."""
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"]
        ),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_labels=4,
    )
    with pytest.raises(HeadError, match="made for ObjectDetection, which is no classification"):
        plan_head(transformers.DetrForObjectDetection(config), 3)


def test_a_layer_as_wide_as_num_labels_needs_a_name() -> None:
    class Regressor(transformers.BertPreTrainedModel):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.bert = transformers.BertModel(config)
            self.box = nn.Linear(config.hidden_size, config.num_labels)

    model = Regressor(transformers.BertConfig(**SMALL, **TEXT))
    with pytest.raises(HeadError, match=r"box is 7 wide .* not called like a classifier"):
        plan_head(model, 3)


def test_a_language_model_is_no_classifier() -> None:
    settings = {**TEXT, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = from_transformers("GPT2LMHeadModel", **settings)
    for head in (None, "lm_head"):
        with pytest.raises(HeadError, match=r"tied to transformer\.wte\.weight"):
            plan_head(model, 3, head=head)
