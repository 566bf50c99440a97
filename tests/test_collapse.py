import itertools
import re

import pytest
import timm
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from surgery.collapse import collapse, collapse_kinds, counterpart, patterns


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        pytest.param(["fc.weight"], ["fc.weight"], id="one-name"),
        pytest.param(["weight", "bias"], ["{weight,bias}"], id="no-path"),
        pytest.param(["a.0.w", "a.1.w"], ["a.{0,1}.w"], id="two-neighbours"),
        pytest.param(["a.0.w", "a.1.w", "a.2.w"], ["a.{0..2}.w"], id="a-run"),
        pytest.param(["a.0.w", "a.2.w", "a.3.w", "a.4.w"], ["a.{0,2..4}.w"], id="gap"),
        pytest.param(["a1.b.w", "a2.b.w"], ["a{1,2}.b.w"], id="number-inside-a-segment"),
        pytest.param(
            ["a.0.w", "a.0.b", "a.1.w"], ["a.0.{w,b}", "a.1.w"], id="not-a-product-is-split"
        ),
        pytest.param(["a.007.w", "a.7.w"], ["a.{7,007}.w"], id="leading-zeros-are-kept"),
        pytest.param(["b.w", "a.w", "b.v"], ["b.{w,v}", "a.w"], id="order-of-first-appearance"),
        pytest.param(
            [f"a.{'9' * 5000}.w", "a.1.w"], [f"a.{{1,{'9' * 5000}}}.w"], id="a-number-of-any-length"
        ),
        pytest.param([], [], id="nothing"),
    ],
)
def test_collapse(names, patterns):
    assert [folded.pattern for folded in collapse(names)] == patterns


def test_resnet_rows_are_the_ones_a_person_would_write():
    names = torchvision.models.resnet18().state_dict()
    patterns = [folded.pattern for folded in collapse(n for n in names if n.endswith("weight"))]
    assert patterns == [
        "conv1.weight",
        "bn1.weight",
        "layer{1..4}.{0,1}.conv{1,2}.weight",
        "layer{1..4}.{0,1}.bn{1,2}.weight",
        "layer{2..4}.0.downsample.{0,1}.weight",
        "fc.weight",
    ]


def expand(pattern: str) -> list[str]:
    """Every name a pattern stands for, written apart from the code under test."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [
        [part] if at % 2 == 0 else list(itertools.chain.from_iterable(map(_range, part.split(","))))
        for at, part in enumerate(parts)
    ]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _range(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    return [str(n) for n in range(int(first), int(last) + 1)] if dots else [text]


segments = st.one_of(
    st.integers(0, 12).map(str), st.sampled_from(["a", "conv1", "conv2", "x1y2", "w", "007"])
)
names = st.lists(st.lists(segments, min_size=1, max_size=4).map(".".join), unique=True)


@given(names)
def test_expanding_the_patterns_gives_back_the_names_each_once(names):
    expanded = [name for folded in collapse(names) for name in expand(folded.pattern)]
    assert sorted(expanded) == sorted(names)


@given(names)
def test_every_pattern_lists_the_names_it_stands_for(names):
    for folded in collapse(names):
        assert sorted(expand(folded.pattern)) == sorted(folded.names)


def test_a_transformer_folds_to_a_handful_of_rows():
    names = timm.create_model("vit_tiny_patch16_224").state_dict()
    assert len(names) == 152
    assert len(collapse(names)) <= 16


def test_a_name_of_thousands_of_numbers_is_a_pattern_too():
    name = "1." * 5000 + "w"
    assert [c.pattern for c in collapse([name])] == [name]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("fc1.w", "fc2.w"), ("fc2.w", "fc1.w"), id="swapped"),
        pytest.param(("b.0.w", "h.0.w"), ("b.1.w", "h.0.w"), id="one-source-of-two"),
        pytest.param(("b.0.w", "h.0.w"), ("b.0.w", "g.0.w"), id="another-word"),
        pytest.param(("b.0.w", "b.0.w"), ("b.0.w", "b.1.w"), id="itself"),
    ],
)
def test_pairs_that_no_row_may_hold_together(one, other):
    assert counterpart(*one) != counterpart(*other)


def test_pairs_of_repeated_layers_are_of_one_kind():
    kinds = {counterpart(f"blocks.{n}.norm.w", f"layer.{n + 1}.ln.w") for n in range(12)}
    assert len(kinds) == 1


def test_names_in_a_sentence():
    assert patterns([f"b.{n}.w" for n in range(4)] + ["fc.w", "fc.w"]) == "b.{0..3}.w, fc.w"
    assert patterns(["a.w", "b.w", "c.w"], 1) == "a.w and 2 more"


def test_no_pattern_stands_for_names_of_two_kinds():
    kinds = {"b.0.w": "x", "b.1.w": "y", "b.2.w": "x", "b.3.w": "y"}
    found = [(folded.pattern, kind) for folded, kind in collapse_kinds(kinds)]
    assert found == [("b.{0,2}.w", "x"), ("b.{1,3}.w", "y")]
