from itertools import groupby

import pytest
import torch
import torchvision
from torch import nn

from surgery.networks.describe import describe
from surgery.specs import ModelSpec
from surgery.tuning.stages import layer_depths, stage_key


def stages(spec: ModelSpec) -> list[str]:
    """The longest shared path of each depth, in order."""
    depths = layer_depths(spec)
    assert list(depths.values()) == sorted(depths.values())
    found = []
    for _, names in groupby(depths, key=lambda name: depths[name]):
        paths = [name.split(".")[:-1] for name in names]
        levels = zip(*paths, strict=False)
        found.append(".".join(level[0] for level in levels if len(set(level)) == 1))
    return found


def of_torchvision(name: str) -> ModelSpec:
    with torch.device("meta"):
        return describe(getattr(torchvision.models, name)())


def test_resnet_by_block_with_its_stem_in_one():
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    spec = of_torchvision("resnet18")
    assert stages(spec) == ["", *blocks, "fc"]
    depths = layer_depths(spec)
    assert depths["conv1.weight"] == depths["bn1.bias"] == 0


def test_vgg_by_layer_its_norms_with_their_convolutions():
    features = [f"features.{index}" for index in (0, 4, 8, 11, 15, 18, 22, 25)]
    found = stages(of_torchvision("vgg11_bn"))
    assert len(found) == 8 + 3
    depths = layer_depths(of_torchvision("vgg11_bn"))
    for depth, layer in enumerate(features):
        assert (
            depths[f"{layer}.weight"] == depths[f"{layer.split('.')[0]}.{int(layer[9:]) + 1}.bias"]
        )
        assert depths[f"{layer}.weight"] == depth


def test_densenet_by_block_and_transition():
    found = stages(of_torchvision("densenet121"))
    assert found == [
        "features",  # conv0 and norm0
        "features.denseblock1",
        "features.transition1",
        "features.denseblock2",
        "features.transition2",
        "features.denseblock3",
        "features.transition3",
        "features",  # denseblock4 and norm5
        "classifier",
    ]


def test_torchvision_vit_by_encoder_layer():
    found = stages(of_torchvision("vit_b_16"))
    assert len(found) == 1 + 12 + 1
    depths = layer_depths(of_torchvision("vit_b_16"))
    assert depths["class_token"] == depths["encoder.pos_embedding"] == depths["conv_proj.bias"] == 0
    assert depths["encoder.ln.weight"] == depths["encoder.layers.encoder_layer_11.ln_1.bias"] == 12


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_bert_by_layer_its_embeddings_in_one(prefix):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=12, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    kind = transformers.BertForSequenceClassification if prefix else transformers.BertModel
    found = stages(describe(kind(config)))
    layers = [f"{prefix}encoder.layer.{index}" for index in range(12)]
    assert found[:13] == [f"{prefix}embeddings", *layers]
    assert found[13:] == [f"{prefix}pooler.dense", *(["classifier"] if prefix else [])]


def test_a_wrapper_changes_nothing():
    plain = layer_depths(of_torchvision("resnet18"))
    with torch.device("meta"):
        wrapped = layer_depths(describe(nn.DataParallel(torchvision.models.resnet18())))
    assert wrapped == {f"module.{name}": depth for name, depth in plain.items()}


def test_parameters_of_one_layer_alone():
    assert layer_depths(describe(nn.Linear(2, 2))) == {"weight": 0, "bias": 0}
    assert layer_depths(describe(nn.BatchNorm1d(2))) == {"weight": 0, "bias": 0}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("weight", ""),
        ("fc.weight", "fc"),
        ("layer1.0.conv1.weight", "layer1.0"),
        ("features.5.weight", "features.5"),
        ("features.denseblock1.denselayer1.norm1.weight", "features.denseblock1"),
        ("bert.embeddings.word_embeddings.weight", "bert.embeddings"),
        ("embeddings.word_embeddings.weight", "embeddings"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "encoder.layers.encoder_layer_0"),
        ("pooler.dense.weight", "pooler.dense"),
    ],
)
def test_stage_key(name, key):
    assert stage_key(name) == key
