"""Names and shapes of files against outlines of known architectures, wrapped and with other heads.

The whole of both libraries takes minutes to look at. With SURGERY_IDENTIFY_CACHE=FOLDER, a cache
folder to read or to fill, a sample of 60 of all architectures is identified among them all.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Sequence

import pytest
from torch import nn

from surgery.networks.architectures import find_architecture
from surgery.networks.building import build
from surgery.networks.deferred import DeferredInit
from surgery.networks.describe import describe
from surgery.networks.identification import Differing, Outline, identify
from surgery.networks.outlining import outline
from surgery.networks.survey import survey
from surgery.specs import TensorSpec

SAMPLE_FOLDER = os.environ.get("SURGERY_IDENTIFY_CACHE", "")

#: Small, of many families, some of them the same network as another.
LABELS = (
    "timm:convnext_atto",
    "timm:deit_tiny_distilled_patch16_224",
    "timm:deit_tiny_patch16_224",
    "timm:efficientnet_b0",
    "timm:ghostnet_100",
    "timm:levit_128s",
    "timm:mobilenetv3_small_100",
    "timm:regnetx_002",
    "timm:resnet18",
    "timm:resnet18d",
    "timm:resnet50",
    "timm:resnet50_gn",
    "timm:resnet50d",
    "timm:resnext50_32x4d",
    "timm:tf_efficientnet_b0",
    "timm:vgg11",
    "timm:vit_tiny_patch16_224",
    "timm:wide_resnet50_2",
    "torchvision:alexnet",
    "torchvision:googlenet",
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "torchvision:wide_resnet50_2",
)

WRAPPERS = ("", "module.", "_orig_mod.module.", "model.", "backbone.", "net.encoder.module.")


@pytest.fixture(scope="module")
def outlines():
    return tuple(outline(label) for label in LABELS)


def specs_of(label: str, classes: int | None = None, prefix: str = "") -> list[TensorSpec]:
    with DeferredInit():
        model = build(find_architecture(label), num_classes=classes)
    return renamed(describe(model).tensors, prefix)


def renamed(specs, prefix):
    return [TensorSpec(prefix + spec.name, spec.shape, spec.dtype) for spec in specs]


class TestSample:
    @pytest.mark.parametrize("label", LABELS)
    def test_each_is_named_however_it_is_wrapped(self, outlines, label):
        dice = random.Random(label)
        prefix, classes = dice.choice(WRAPPERS), dice.choice([None, 0, 3])
        found = identify(specs_of(label, classes, prefix), outlines)
        assert label in found.candidates[0].architectures, (prefix, classes, str(found))
        assert found.fits

    @pytest.mark.skipif(not SAMPLE_FOLDER, reason="takes minutes: set SURGERY_IDENTIFY_CACHE")
    def test_sixty_of_all(self, monkeypatch):
        monkeypatch.setenv("SURGERY_CACHE_DIR", SAMPLE_FOLDER)
        known = survey()
        dice = random.Random(60)
        labels = [known.architecture for known in known if not known.problem]
        assert len(labels) > 1000
        wrong = [
            wrong for label in dice.sample(labels, 60) if (wrong := missed(label, known, dice))
        ]
        assert not wrong, wrong


def missed(label: str, known: Sequence[Outline], dice: random.Random) -> str:
    """Nothing where the architecture is named, else what was named instead."""
    prefix, classes = dice.choice(WRAPPERS), dice.choice([None, 0, 3, 10])
    try:
        specs = specs_of(label, classes, prefix)
    except Exception as error:  # a detector has no head of so many classes: as it comes, then
        print(f"{label} with {classes} classes: {error}")
        specs = specs_of(label, None, prefix)
    found = identify(specs, known)
    best = found.candidates[0]
    print(f"{label} in {prefix or 'nothing'}, {classes} classes: {best.architectures} {best.share}")
    return "" if label in best.architectures else f"{label} {prefix!r} {classes}:\n{found}"


class TestNearMisses:
    @pytest.mark.parametrize(
        "name", ["resnet50", "resnet50d", "resnext50_32x4d", "wide_resnet50_2", "resnet50_gn"]
    )
    @pytest.mark.parametrize("classes", [None, 0, 12])
    def test_siblings_are_told_apart(self, outlines, name, classes):
        first, second, *_ = identify(specs_of(f"timm:{name}", classes), outlines).candidates
        assert f"timm:{name}" in first.architectures
        assert first.is_whole
        assert first.share == 1
        assert second.share < 1
        assert not second.is_whole

    def test_one_tensor_of_another_shape_is_never_all(self, outlines):
        specs = specs_of("timm:resnet50")
        at = next(i for i, spec in enumerate(specs) if spec.name == "bn1.weight")
        specs[at] = TensorSpec("bn1.weight", (65,), "float32")
        found = identify(specs, outlines)
        best = found.candidates[0]
        assert best.architectures == ("timm:resnet50", "torchvision:resnet50")
        assert 0.9999 < best.share < 1
        (differing,) = best.differing
        assert differing == Differing("bn1.weight", in_file=(65,), in_architecture=(64,))
        assert "100%" not in str(found).splitlines()[0]
        assert "timm:resnet50 +1  99.99%" in str(found)

    def test_a_grey_stem_says_so(self, outlines):
        specs = [
            TensorSpec(s.name, (64, 1, 7, 7), s.dtype) if s.name == "conv1.weight" else s
            for s in specs_of("timm:resnet18")
        ]
        text = str(identify(specs, outlines))
        (differing,) = identify(renamed(specs, "net."), outlines).candidates[0].differing
        assert differing.name == "conv1.weight"  # as the architecture has it
        assert "differs from timm:resnet18" in text
        assert re.search(r"conv1\.weight +1 +\(64, 1, 7, 7\) +expected \(64, 3, 7, 7\)", text)


class TestHeads:
    @pytest.mark.parametrize(("classes", "head"), [(None, "same"), (5, "other"), (0, "missing")])
    def test_the_head_is_told_apart_from_the_body(self, outlines, classes, head):
        best = identify(specs_of("timm:vit_tiny_patch16_224", classes), outlines).candidates[0]
        assert (best.head, best.share) == (head, 1)

    def test_a_head_of_more_layers(self, outlines):
        specs = [s for s in specs_of("timm:resnet18") if not s.name.startswith("fc.")]
        specs += [
            TensorSpec("fc.0.weight", (256, 512), "float32"),
            TensorSpec("fc.2.weight", (9, 256), "float32"),
        ]
        best = identify(specs, outlines).candidates[0]
        assert (best.architectures[0], best.head, best.share) == ("timm:resnet18", "other", 1)

    def test_two_heads_are_not_one(self, outlines):
        names = {
            label: identify(specs_of(f"timm:{label}", 4), outlines).candidates[0].architectures
            for label in ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
        }
        assert names == {
            "deit_tiny_patch16_224": ("timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224"),
            "deit_tiny_distilled_patch16_224": ("timm:deit_tiny_distilled_patch16_224",),
        }

    def test_the_same_head_comes_before_another(self):
        def a_net(name, classes):
            return Outline(name, {"body.w": (8, 8), "fc.w": (classes, 8)}, ("fc",))

        known = (a_net("timm:a", 1000), a_net("timm:bb", 21841))
        file = [TensorSpec("body.w", (8, 8), "float32"), TensorSpec("fc.w", (21841, 8), "float32")]
        first, second = identify(file, known).candidates
        assert (first.architectures, first.head) == (("timm:bb",), "same")
        assert (second.architectures, second.head) == (("timm:a",), "other")


class TestTies:
    def test_what_the_weights_cannot_tell_is_said(self, outlines):
        found = identify(specs_of("torchvision:resnet50"), outlines)
        assert found.candidates[0].architectures == ("timm:resnet50", "torchvision:resnet50")
        assert "cannot distinguish them: timm:resnet50, torchvision:resnet50" in str(found)

    def test_shortest_first(self, outlines):
        found = identify(specs_of("timm:tf_efficientnet_b0"), outlines)
        names = found.candidates[0].architectures
        assert names == ("timm:efficientnet_b0", "timm:tf_efficientnet_b0")

    def test_no_order_matters(self, outlines):
        specs = specs_of("timm:resnet50d", 7, "module.")
        shuffled = random.Random(1).sample(specs, len(specs))
        backwards = [
            Outline(known.architecture, dict(reversed(known.tensors.items())), known.heads)
            for known in reversed(outlines)
        ]
        one, other = identify(specs, outlines), identify(shuffled, backwards)
        shares = [(c.architectures, c.share, c.prefix, set(c.differing)) for c in one.candidates]
        assert shares == [
            (c.architectures, c.share, c.prefix, set(c.differing)) for c in other.candidates
        ]


class TestWrappers:
    def test_the_prefix_is_said(self, outlines):
        found = identify(specs_of("timm:resnet18", None, "_orig_mod.net.backbone."), outlines)
        assert found.candidates[0].prefix == "net.backbone."
        assert "below net.backbone" in str(found)

    def test_wrappers_in_the_middle(self, outlines):
        specs = [
            TensorSpec(
                s.name.replace("blocks.3.", "blocks.3._checkpoint_wrapped_module."),
                s.shape,
                s.dtype,
            )
            for s in specs_of("timm:vit_tiny_patch16_224")
        ]
        assert any("_checkpoint" in spec.name for spec in specs)
        assert identify(specs, outlines).candidates[0].is_whole

    def test_other_dtypes_are_the_same_architecture(self, outlines):
        specs = [
            TensorSpec(s.name, s.shape, "bfloat16" if s.is_floating else s.dtype)
            for s in specs_of("timm:resnet18")
        ]
        assert identify(specs, outlines).candidates[0].is_whole

    def test_a_part_of_a_larger_network(self, outlines):
        neck = [TensorSpec(f"neck.{i}.weight", (512, 512, 3, 3), "float32") for i in range(8)]
        found = identify([*specs_of("timm:resnet50", 0, "backbone."), *neck], outlines)
        best = found.candidates[0]
        assert best.architectures[0] == "timm:resnet50"
        assert (best.of_architecture, best.head) == (1, "missing")
        assert 0.5 < best.of_file < 0.6
        assert re.search(r"neck\.\{0\.\.7\}\.weight +8 .* more in the file", str(found))


def llama(layers: int = 4, width: int = 64) -> list[TensorSpec]:
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"]
    tensors = [
        TensorSpec(f"model.layers.{layer}.{name}.weight", (width, width), "bfloat16")
        for layer in range(layers)
        for name in names
    ]
    return [TensorSpec("model.embed_tokens.weight", (32000, width), "bfloat16"), *tensors]


def gpt2(width: int = 192) -> list[TensorSpec]:
    """Names as in a vision transformer, and its width, but not its layers."""
    leaves = {"ln_1.weight": (width,), "attn.c_attn.weight": (width, 3 * width), "norm.w": (1,)}
    layers = [
        TensorSpec(f"h.{layer}.{leaf}", shape, "float32")
        for layer in range(12)
        for leaf, shape in leaves.items()
    ]
    return [TensorSpec("norm.weight", (width,), "float32"), *layers]


class TestNothingFits:
    @pytest.mark.parametrize("specs", [llama(), gpt2(), []], ids=["llama", "gpt2", "empty"])
    def test_language_models(self, outlines, specs):
        found = identify(specs, outlines)
        assert not found.fits
        assert str(found).startswith("nothing known fits: ")

    def test_a_live_language_model(self, outlines):
        layer = nn.TransformerEncoderLayer(64, 4, batch_first=True)
        found = identify(describe(nn.TransformerEncoder(layer, 2)).tensors, outlines)
        assert not found.fits

    def test_the_nearest_is_shown_all_the_same(self, outlines):
        specs = [s for s in specs_of("timm:resnet50") if s.name.startswith(("conv1", "layer1"))]
        found = identify(specs, outlines)
        assert not found.fits
        best = found.candidates[0]
        assert best.of_file == 1
        assert best.of_architecture < 0.05
        assert "timm:resnet50 +1" in str(found)

    def test_what_has_next_to_nothing_in_common_is_not_named(self, outlines):
        assert identify(gpt2(), outlines).candidates == ()

    def test_empty_tensors_are_nothing(self):
        known = (Outline("timm:a", {"w": (0, 3)}),)
        assert not identify([TensorSpec("w", (0, 3), "float32")], known).candidates

    def test_what_could_not_be_built_is_said(self):
        found = identify(llama(), [Outline("timm:broken", {}, problem="no such layer")])
        assert "timm:broken could not be built here" in str(found)
        assert found.to_dict()["unknown"] == {"timm:broken": "no such layer"}

    def test_a_name_of_thousands_of_segments(self, outlines):
        long = TensorSpec("a." * 5000 + "weight", (3,), "float32")
        assert not identify([long, *llama()], outlines).fits


def test_most(outlines):
    specs = specs_of("timm:resnet50")
    assert len(identify(specs, outlines, most=2).candidates) == 2
    assert len(identify(specs, outlines, most=100).candidates) > 5


def test_outlines_go_through_json(outlines):
    for known in outlines:
        assert Outline.from_dict(json.loads(json.dumps(known.to_dict()))) == known


def test_elements_below_a_path_are_its_own_alone(outlines):
    names = ["head.fc.weight", "head.fc", "head.fc2.weight", "head.fc-x", "head/fc", "a", "z"]
    known = Outline("timm:a", {"a": (2,), "z": (3,), "head.fc.weight": (5,)}, ("head.fc",))
    specs = [TensorSpec(name, (10 ** (i + 1),), "float32") for i, name in enumerate(names)]
    specs[-2:] = [TensorSpec("a", (2,), "float32"), TensorSpec("z", (3,), "float32")]
    (best,) = identify(specs, [known]).candidates
    assert (best.matched, best.body) == (5, 5)
    assert best.present == 5 + 10**3 + 10**4 + 10**5
    assert [tensor.name for tensor in best.differing] == ["head.fc2.weight", "head.fc-x", "head/fc"]
