import json

import pytest
import timm
import torch
import torchvision
from tiny_models import TiedLanguageModel, TinyNet
from torch import nn

from surgery.networks.describe import describe
from surgery.specs import DTYPE_BITS, ModelSpec, TensorSpec


@pytest.mark.parametrize(
    ("shape", "dtype", "numel", "nbytes"),
    [
        pytest.param((2, 3), "float32", 6, 24, id="matrix"),
        pytest.param((), "int64", 1, 8, id="scalar"),
        pytest.param((0, 4), "float16", 0, 0, id="empty"),
        pytest.param((3,), "bool", 3, 3, id="flags"),
    ],
)
def test_sizes(shape, dtype, numel, nbytes):
    spec = TensorSpec("x", shape, dtype)
    assert (spec.numel, spec.nbytes) == (numel, nbytes)


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_bits_are_torchs(dtype):
    assert getattr(torch, dtype).itemsize * 8 == DTYPE_BITS[dtype]


def two_names():
    """A parameter and a buffer of two names, one that is frozen, and one that is computed."""
    model = nn.Module()
    model.b = model.a = nn.BatchNorm1d(4)
    model.register_buffer("index", torch.arange(3), persistent=False)
    model.a.weight.requires_grad = False
    return model


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(two_names(), id="two-names"),
        pytest.param(TinyNet(), id="tiny"),
        pytest.param(TiedLanguageModel(), id="tied"),
        pytest.param(timm.create_model("vit_tiny_patch16_224"), id="vit"),
        pytest.param(torchvision.models.swin_t(), id="swin"),
    ],
)
def test_a_model_spec_goes_through_json_and_back(model):
    spec = describe(model)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def _changed(path, value):
    """A small spec as JSON values, with one of them replaced."""
    data = json.loads(json.dumps(describe(TinyNet()).to_dict()))
    *way, last = path
    place = data
    for step in way:
        place = place[step]
    place[last] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a-list"),
        pytest.param("tensors", id="a-text"),
        pytest.param({"tensors": []}, id="half-of-it"),
        *(
            pytest.param(_changed(path, value), id=f"{'.'.join(map(str, path))}={value}")
            for path, value in [
                (["tensors"], "abc"),
                (["tensors"], {"a": 1}),
                (["tensors", 0], "abc"),
                (["tensors", 0], ["a", [1]]),
                (["tensors", 0, 0], ["a"]),
                (["tensors", 0, 1], 5),
                (["tensors", 0, 1], "12"),
                (["tensors", 0, 1, 0], float("inf")),
                (["tensors", 0, 1, 0], float("nan")),
                (["tensors", 0, 1, 0], -1),
                (["tensors", 0, 1, 0], 2.0),
                (["tensors", 0, 1, 0], True),
                (["tensors", 0, 1, 0], "8"),
                (["tensors", 0, 2], "float33"),
                (["tensors", 0, 2], ["float32"]),
                (["parameters", 0], []),
                (["parameters", 0, "aliases"], "stem.weight"),
                (["parameters", 0, "aliases"], [["stem.weight"]]),
                (["parameters", 0, "trainable"], "no"),
                (["parameters", 0, "depth"], float("inf")),
                (["modules", 0], None),
                (["modules", 0, "types"], "Conv2d"),
                (["modules", 0, "path"], 3),
                (["modules", 0, "norm"], 1),
                (["computed"], "a"),
                (["computed"], [None]),
                (["shared_buffers"], ["ab"]),
            ]
        ),
    ],
)
def test_json_of_another_kind_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"expected|is no dtype"):
        ModelSpec.from_dict(data)


def test_names_alone_tell_parameters_from_buffers_and_norms():
    live = describe(TinyNet())
    named = ModelSpec.from_tensors(live.tensors)
    assert {p.name for p in named.parameters} == {p.name for p in live.parameters}
    norms = [module.path for module in named.modules if module.norm]
    assert norms == [module.path for module in live.modules if module.norm]
    assert not named.knows_types


def test_ties_of_a_file_are_one_parameter():
    tensors = [TensorSpec(n, (2, 2), "float32") for n in ("a", "b", "c")]
    spec = ModelSpec.from_tensors(tensors, ties=[("a", "c")])
    assert [p.aliases for p in spec.parameters] == [("a", "c"), ("b",)]


class TestDescribe:
    def test_tied_parameters_are_one_with_all_their_names(self):
        spec = describe(TiedLanguageModel())
        assert spec.parameters[0].aliases == ("embed.weight", "lm_head.weight")
        assert len(spec.tensors) == 4

    def test_buffers_that_no_state_dict_holds_are_named(self):
        model = nn.Module()
        model.register_buffer("kept", torch.zeros(1))
        model.register_buffer("computed", torch.zeros(1), persistent=False)
        assert describe(model).computed == ("computed",)

    def test_depths_are_timms(self):
        spec = describe(timm.create_model("vit_tiny_patch16_224"))
        depth = {parameter.name: parameter.depth for parameter in spec.parameters}
        assert depth["cls_token"] == 0
        assert depth["blocks.0.attn.qkv.weight"] == 1
        assert depth["head.weight"] == 13

    def test_a_module_that_only_looks_frozen_is_found(self):
        model = TinyNet()
        model.blocks.requires_grad = False
        assert [m.path for m in describe(model).modules if m.shadowed] == ["blocks"]

    @pytest.mark.parametrize(
        ("module", "norm", "statistics"),
        [
            pytest.param(nn.BatchNorm2d(2), True, True, id="batch-norm"),
            pytest.param(nn.LayerNorm((2, 3, 3)), True, False, id="layer-norm-over-axes"),
            pytest.param(nn.GroupNorm(1, 2), True, False, id="group-norm"),
            pytest.param(nn.RMSNorm(2), True, False, id="rms-norm"),
            pytest.param(timm.layers.LayerNorm2d(2), True, False, id="timm"),
            pytest.param(timm.layers.BatchNormAct2d(2), True, True, id="timm-with-activation"),
            pytest.param(nn.BatchNorm1d(2, affine=False), False, True, id="statistics-alone"),
            pytest.param(nn.PReLU(2), False, False, id="one-dimensional-but-no-norm"),
        ],
    )
    def test_norms_are_known_by_class(self, module, norm, statistics):
        spec = describe(nn.Sequential(module)).modules_by_path["0"]
        assert (spec.norm, spec.has_statistics) == (norm, statistics)


def test_a_tie_that_is_no_parameter_is_a_shared_buffer():
    tensors = [TensorSpec("a.index", (3,), "int64"), TensorSpec("b.index", (3,), "int64")]
    spec = ModelSpec.from_tensors(tensors, ties=[("a.index", "b.index")])
    assert spec.parameters == ()
    assert spec.ties == (("a.index", "b.index"),)
