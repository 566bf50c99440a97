"""Which layers are a head by names and shapes alone: never one that the live model denies.

All architectures of the zoo are held against it in ``test_heads_zoo.py``.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TiedLanguageModel, TinyNet, Wrapper
from torch import nn

from surgery.head_names import heads_by_name, is_called_a_head, is_within
from surgery.heads import head_paths
from surgery.networks.describe import describe
from surgery.specs import ModelSpec, TensorSpec
from surgery.wrappers import unwrap_name


def weights(text: str) -> list[TensorSpec]:
    """``"fc 10x8, norm 8"``: the weights of these modules, in this order."""
    pairs = (layer.split() for layer in text.split(","))
    return [
        TensorSpec(f"{path}.weight", tuple(map(int, shape.split("x"))), "float32")
        for path, shape in pairs
    ]


NAMED = {
    "fc": ("conv1 8x3x7x7, fc 10x8", ("fc",)),
    "head behind its norm": ("stem 8x3, head.norm 8, head.fc 10x8", ("head.fc",)),
    "heads.head": ("conv_proj 8x3x4x4, heads.head 10x8", ("heads.head",)),
    "last of a row": ("features.0 8x3, classifier.0 16x8, classifier.3 10x16", ("classifier.3",)),
    "a layer inside": ("stem 8x3, head.pre_logits.fc 16x8, head.fc 10x16", ("head.fc",)),
    "a convolution of one place": ("features.0 8x3x3x3, classifier.1 10x8x1x1", ("classifier.1",)),
    "what comes before the head": (
        "stem 8x3, conv_head 16x8x1x1, classifier 10x16",
        ("classifier",),
    ),
    "a pair": ("stem 8x3, head 10x8, head_dist 10x8", ("head", "head_dist")),
    "a pair of transformers'": (
        "deit.embed 8x3, cls_classifier 10x8, distillation_classifier 10x8",
        ("cls_classifier", "distillation_classifier"),
    ),
    "auxiliary, wherever it stands": (
        "conv 8x3, aux1.conv 8x8x1x1, aux1.fc2 10x8, more 9x8, fc 10x9",
        ("fc", "aux1.fc2"),
    ),
    "nested": ("model.backbone.conv 8x3, model.score 10x8", ("model.score",)),
    "wrapped": ("_orig_mod.module.conv 8x3, _orig_mod.module.fc 10x8", ("fc",)),
    "alone": ("fc 10x8", ("fc",)),
}
NOT_NAMED = {
    "nothing": "",
    "no such name": "conv1 8x3x7x7, top 10x8",
    "followed by a layer": "conv1 8x3, fc 10x8, decoder 7x9",
    "followed by a norm": "conv1 8x3, fc 10x8, bn 10",
    "inside a block": "blocks.0.mlp.fc1 16x8, blocks.0.mlp.fc2 8x16",
    "a numbered layer of something else": "stem 8x3, merger.fc1 16x8, merger.fc2 9x16",
    "two tasks": "stem 8x3, head_a 10x8, head_b 10x8",
    "two tasks, numbered": "stem 8x3, heads.0 10x8, heads.1 10x8",
    "two widths": "stem 8x3, head 10x8, head_dist 11x8",
    "another called so, as wide": "box.cls_score 91x8, neck 8x8x2x2, mask.mask_logits 91x8x1x1",
    "a window": "stem 8x3, head.conv 10x8x3x3",
    "an embedding's shape": "embed 50x8, body 8x8, lm_head 50x8",
    "a vector": "stem 8x3, head 10",
    "auxiliary alone": "stem 8x3, aux_head 10x8",
}


@pytest.mark.parametrize(("text", "expected"), NAMED.values(), ids=NAMED)
def test_named(text, expected):
    assert heads_by_name(weights(text)) == expected


@pytest.mark.parametrize("text", NOT_NAMED.values(), ids=NOT_NAMED)
def test_in_doubt_nothing_is_named(text):
    assert heads_by_name(weights(text) if text else []) == ()


_SEGMENTS = st.sampled_from(
    ["", "head", "fc", "aux1", "0", "3", "dist", "weight", "blocks", "module"]
)
_SPECS = st.builds(
    TensorSpec,
    st.lists(_SEGMENTS, min_size=1, max_size=4).map(".".join),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from(["float32", "int64"]),
)


@given(st.lists(_SPECS, max_size=8, unique_by=lambda spec: spec.name))
def test_whatever_is_named_is_there_and_of_one_width(specs):
    named = heads_by_name(specs)
    rows = {unwrap_name(spec.name): spec.shape[:1] for spec in specs}
    assert len({rows[f"{path}.weight"] for path in named}) <= 1


def test_very_many_that_are_called_so():
    specs = [TensorSpec(f"head.{i}.weight", (i + 2, 1), "float32") for i in range(50_000)]
    assert heads_by_name(specs) == ()


def test_what_is_tied_is_no_head():
    specs = weights("embed 50x8, body 8x9, head 10x8")
    assert heads_by_name(specs) == ("head",)
    assert heads_by_name(specs, ties=[("module.other.weight", "module.head.weight")]) == ()


def test_what_computes_no_values_does_not_follow():
    """Counters, index tables and single numbers, as a temperature."""
    after = [TensorSpec("t.scale", (1,), "float32"), TensorSpec("t.index", (4, 4), "int64")]
    assert heads_by_name([*weights("stem 8x3, fc 10x8"), *after]) == ("fc",)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 7,
    "vocab_size": 50,
    "image_size": 32,
    "patch_size": 16,
}


def from_transformers(name: str, **settings: object) -> nn.Module:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**SMALL, **settings))


LIVE = {
    "tiny": TinyNet,
    "wrapped": lambda: Wrapper(TinyNet()),
    "tied": TiedLanguageModel,
    "one layer": lambda: nn.Sequential(nn.Linear(4, 2)),
    "ViT": lambda: from_transformers("ViTForImageClassification"),
    "DeiT": lambda: from_transformers("DeiTForImageClassificationWithTeacher"),
    "Bert": lambda: from_transformers("BertForSequenceClassification"),
    "Bert, answers": lambda: from_transformers("BertForQuestionAnswering"),
    "Bert, words": lambda: from_transformers("BertForMaskedLM"),
    "Bert, words alone": lambda: from_transformers("BertForMaskedLM", tie_word_embeddings=False),
    "Roberta": lambda: from_transformers("RobertaForSequenceClassification"),
    "Llama": lambda: from_transformers("LlamaForCausalLM"),
    "Llama, classes": lambda: from_transformers("LlamaForSequenceClassification", pad_token_id=0),
}


@pytest.mark.parametrize("case", LIVE)
def test_what_the_live_model_says_is_never_exceeded(case):
    model = LIVE[case]()
    spec = describe(model)
    named = heads_by_name(spec.tensors, spec.ties)
    assert set(named) <= set(head_paths(model))
    by_file = ModelSpec.from_tensors(spec.tensors)  # which may not record what is tied
    assert set(heads_by_name(by_file.tensors)) <= set(head_paths(model))
    expected = {"tiny", "wrapped", "ViT", "DeiT", "Bert", "Roberta", "Llama, classes"}
    assert bool(named) == (case in expected)


@pytest.mark.parametrize(
    "build",
    [
        torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn,
        torchvision.models.detection.maskrcnn_resnet50_fpn,
        torchvision.models.detection.keypointrcnn_resnet50_fpn,
        torchvision.models.detection.retinanet_resnet50_fpn,
        torchvision.models.detection.fcos_resnet50_fpn,
        torchvision.models.detection.ssd300_vgg16,
    ],
    ids=lambda build: build.__name__,
)
def test_detectors_have_no_head_of_classes(build):
    with torch.device("meta"):
        model = build(weights=None, weights_backbone=None)
    assert heads_by_name(describe(model).tensors) == ()


def test_within():
    assert is_within("head.fc.weight", ["stem", "head.fc"])
    assert is_within("head", ["head"])
    assert not is_within("head_dist.weight", ["head"])


@pytest.mark.parametrize(
    "path", ["fc", "a.head", "lm_head", "last_linear", "Classifier.6", "aux.fc2"]
)
def test_called_a_head(path):
    assert is_called_a_head(path)


@pytest.mark.parametrize("path", ["", "blocks.1.fc", "attn.out_proj", "linear2", "header"])
def test_not_called_a_head(path):
    assert not is_called_a_head(path)
