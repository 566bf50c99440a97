import pytest

from surgery.matching.names import match_names
from surgery.specs import TensorSpec


def specs(*names, **shapes):
    return {name: TensorSpec(name, shapes.get(name, (2,)), "float32") for name in names}


def pairs(sources, targets):
    found = match_names(specs(*sources), specs(*targets)).by_target
    return {target: match.source for target, match in found.items()}


@pytest.mark.parametrize(
    ("sources", "targets", "expected"),
    [
        pytest.param(["a.w"], ["a.w"], {"a.w": "a.w"}, id="same"),
        pytest.param(["module.a.w"], ["a.w"], {"a.w": "module.a.w"}, id="ddp-in-the-source"),
        pytest.param(["a.w"], ["module.a.w"], {"module.a.w": "a.w"}, id="ddp-in-the-target"),
        pytest.param(
            ["_orig_mod.module.a.w"],
            ["module.a.w"],
            {"module.a.w": "_orig_mod.module.a.w"},
            id="wrappers-on-both-sides",
        ),
        pytest.param(
            ["a._checkpoint_wrapped_module.b.w"],
            ["a.b.w"],
            {"a.b.w": "a._checkpoint_wrapped_module.b.w"},
            id="wrapper-in-the-middle",
        ),
        pytest.param(
            ["module.w", "w"],
            ["module.w", "w"],
            {"module.w": "module.w", "w": "w"},
            id="a-submodule-really-called-module",
        ),
        pytest.param(
            ["model.a.w", "model.b.w"],
            ["a.w", "b.w"],
            {"a.w": "model.a.w", "b.w": "model.b.w"},
            id="lightning-prefix",
        ),
        pytest.param(["my model.a.w"], ["a.w"], {"a.w": "my model.a.w"}, id="prefix-with-a-space"),
        pytest.param(
            ["a.w", "b.w"],
            ["backbone.body.a.w", "backbone.body.b.w", "head.w"],
            {"backbone.body.a.w": "a.w", "backbone.body.b.w": "b.w"},
            id="nested-backbone",
        ),
        pytest.param(
            ["module.encoder.a.w", "module.encoder.b.w"],
            ["a.w", "b.w"],
            {"a.w": "module.encoder.a.w", "b.w": "module.encoder.b.w"},
            id="prefix-below-a-wrapper",
        ),
        pytest.param(
            ["q.a.w", "q.b.w", "k.a.w", "k.b.w"], ["a.w", "b.w"], {}, id="query-and-key-encoder"
        ),
        pytest.param(
            ["a.w", "b.w"],
            ["student.a.w", "student.b.w", "teacher.a.w", "teacher.b.w"],
            {},
            id="shared-backbone",
        ),
        pytest.param(
            ["a.w", "b.w", "c.w", "fc.w"],
            ["a.w", "b.w", "c.w", "se.fc.w"],
            {"a.w": "a.w", "b.w": "b.w", "c.w": "c.w"},
            id="a-leaf-does-not-wander",
        ),
        pytest.param(["cpb_mlp.0.w"], ["mlp.0.w"], {}, id="text-inside-a-segment-is-no-suffix"),
        pytest.param(
            ["conv.weight_g", "conv.weight_v"],
            ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"],
            {
                "conv.parametrizations.weight.original0": "conv.weight_g",
                "conv.parametrizations.weight.original1": "conv.weight_v",
            },
            id="weight-norm-old-to-new",
        ),
        pytest.param(
            ["parametrizations.weight.original0", "parametrizations.weight.original1"],
            ["weight_g", "weight_v"],
            {
                "weight_g": "parametrizations.weight.original0",
                "weight_v": "parametrizations.weight.original1",
            },
            id="weight-norm-new-to-old",
        ),
        pytest.param(
            ["c.weight_orig", "c.weight_u", "c.weight_v"],
            [
                "c.parametrizations.weight.original",
                "c.parametrizations.weight.0._u",
                "c.parametrizations.weight.0._v",
            ],
            {
                "c.parametrizations.weight.original": "c.weight_orig",
                "c.parametrizations.weight.0._u": "c.weight_u",
                "c.parametrizations.weight.0._v": "c.weight_v",
            },
            id="spectral-norm",
        ),
    ],
)
def test_pairs(sources, targets, expected):
    assert pairs(sources, targets) == expected


def test_the_better_supported_prefix_has_what_two_want():
    sources = specs("a.w", "b.w", "c.w")
    targets = specs("body.a.w", "body.b.w", "body.c.w", "aux.c.w")
    found = match_names(sources, targets).by_target
    assert {t: m.source for t, m in found.items()} == {
        "body.a.w": "a.w",
        "body.b.w": "b.w",
        "body.c.w": "c.w",
    }


def test_a_prefix_needs_one_tensor_of_the_same_shape():
    sources = {"w": TensorSpec("w", (3,), "float32")}
    assert not match_names(sources, specs("x.w")).by_target


def test_under_a_proven_prefix_another_shape_is_still_the_same_name():
    sources = {
        "m.a.w": TensorSpec("m.a.w", (2,), "float32"),
        "m.fc.w": TensorSpec("m.fc.w", (1000,), "float32"),
    }
    assert match_names(sources, specs("a.w", "fc.w")).by_target["fc.w"].source == "m.fc.w"


def test_ambiguity_is_said_on_both_sides():
    found = match_names(specs("q.a.w", "k.a.w"), specs("a.w"))
    assert [(g.targets, g.reason) for g in found.open] == [
        (("a.w",), "ambiguous: fits below k. and below q.")
    ]
    assert found.ambiguous_sources.keys() == {"q.a.w", "k.a.w"}


def test_two_towers_of_one_width_are_not_mixed():
    """CLIP keeps its text tower under the names that the image tower has below `visual.`."""
    blocks = [f"transformer.{i}.w" for i in range(4)]
    sources = ["visual.conv.w", *(f"visual.{name}" for name in blocks), "token.w", *blocks]
    found = match_names(specs(*sources), specs("conv.w", *blocks))
    assert not found.by_target
    assert {group.reason for group in found.open} == {
        "ambiguous: fits below visual. and under its own name"
    }
    assert set(blocks) <= {name for group in found.open for name in group.targets}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(["a.w", "b.w", "c.w"], ["a.w", "b.w", "head.w"], id="student-and-teacher"),
        pytest.param(["a.w", "b.w", "c.w", "head.w"], ["a.w", "b.w"], id="one-has-less"),
    ],
)
def test_two_networks_below_two_prefixes_are_not_mixed(first, second):
    sources = [*(f"model.{name}" for name in first), *(f"ema.{name}" for name in second)]
    assert not pairs(sources, ["a.w", "b.w", "c.w", "head.w"])


def test_an_encoder_and_a_decoder_cannot_both_be_meant():
    layers = [f"layers.{i}.w" for i in range(4)]
    targets = [f"encoder.{n}" for n in layers] + [f"decoder.{n}" for n in layers[:3]]
    assert not pairs(layers, targets)


def test_names_as_they_are_beat_a_copy_below_a_prefix():
    names = ["a.w", "b.w", "c.w"]
    sources = [*names, *(f"ema.{name}" for name in names)]
    assert pairs(sources, names) == {name: name for name in names}


def test_prefixes_that_want_nothing_in_common_hold_side_by_side():
    found = pairs(
        ["x.enc.a", "x.enc.b", "y.dec.c", "y.dec.d"], ["enc.a", "enc.b", "dec.c", "dec.d"]
    )
    assert len(found) == 4


def test_order_of_keys_does_not_matter():
    sources = ["m.a.w", "m.b.w", "x.c.w"]
    targets = ["a.w", "b.w", "c.w", "d.w"]
    forwards = pairs(sources, targets)
    assert forwards == pairs(sources[::-1], targets[::-1])
