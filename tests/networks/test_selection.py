import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TiedLanguageModel
from torch import nn

from surgery.errors import SelectorError, SurgeryError
from surgery.networks.describe import describe
from surgery.networks.selection import Answers, is_bias, select
from surgery.patterns import Subjects, parse_selector
from surgery.specs import ModelSpec


@pytest.fixture(scope="module")
def resnet() -> ModelSpec:
    return describe(torchvision.models.resnet18())


class Odd(nn.Module):
    """Names that catch careless patterns."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Linear(2, 2)
        self.layer10 = nn.Linear(2, 2)
        self.neck = nn.Module()
        self.neck.backbone_proj = nn.Linear(2, 2, bias=False)
        self.backbone = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
        self.attention = nn.MultiheadAttention(2, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))


ODD = {
    "scale",
    "layer1.weight",
    "layer1.bias",
    "layer10.weight",
    "layer10.bias",
    "neck.backbone_proj.weight",
    "backbone.0.weight",
    "backbone.1.weight",
    "backbone.1.bias",
    "attention.in_proj_weight",
    "attention.in_proj_bias",
    "attention.out_proj.weight",
    "attention.out_proj.bias",
}


class TestSelect:
    @pytest.mark.parametrize(
        ("selector", "expected"),
        [
            ("layer1", {"layer1.weight", "layer1.bias"}),
            ("layer1.weight", {"layer1.weight"}),
            ("layer?", {"layer1.weight", "layer1.bias"}),
            ("layer??", {"layer10.weight", "layer10.bias"}),
            ("layer*.bias", {"layer1.bias", "layer10.bias"}),
            ("layer[!2]*.bias", {"layer1.bias", "layer10.bias"}),
            ("layer[0-4].bias", {"layer1.bias"}),
            ("backbone", {"backbone.0.weight", "backbone.1.weight", "backbone.1.bias"}),
            ("backbone.[0,5]", {"backbone.0.weight"}),
            ("*.weight", {"layer1.weight", "layer10.weight"}),
            ("**.backbone*", {name for name in ODD if "backbone" in name}),
            ("**.1.bias", {"backbone.1.bias"}),
            ("backbone.**.bias", {"backbone.1.bias"}),
            ("back**", {name for name in ODD if name.startswith("backbone")}),
            ("backbone/1/**", {"backbone.1.weight", "backbone.1.bias"}),
            ("*", ODD),
            ("**", ODD),
            (":all", ODD),
            (":norm", {"backbone.1.weight", "backbone.1.bias"}),
            (":bias", {name for name in ODD if name.endswith("bias")}),
            (
                ":1d",
                {name for name in ODD if name.endswith("bias")} | {"backbone.1.weight", "scale"},
            ),
            ("type:Linear & :bias", {"layer1.bias", "layer10.bias", "attention.out_proj.bias"}),
            ("type:*BatchNorm", {"backbone.1.weight", "backbone.1.bias"}),
            ("type:_BatchNorm", {"backbone.1.weight", "backbone.1.bias"}),
            ("/layer1/", {name for name in ODD if name.startswith("layer1")}),
            (r"/^layer1\./", {"layer1.weight", "layer1.bias"}),
            ("/r{1,2}1.b|&|,/ & :bias", {"layer1.bias"}),
            ("^scale$, layer(1|2).bias", {"scale", "layer1.bias"}),
            ("scale, layer1 & :bias", {"scale", "layer1.bias"}),
            ("!layer1, layer1.bias", ODD - {"layer1.weight"}),
            ("! backbone & !:bias & :1d", {"scale"}),
            ("layer1&!layer1.bias", {"layer1.weight"}),
        ],
    )
    def test_selects(self, selector: str, expected: set[str]) -> None:
        assert set(select(Odd(), selector)) == expected

    def test_example_of_the_contract(self, resnet: ModelSpec) -> None:
        names = select(resnet, "layer[34]/** & :bias")
        assert (
            names == select(resnet, "layer[34].** & :bias") == select(resnet, "layer[34] & :bias")
        )
        assert names == tuple(
            parameter.name
            for parameter in resnet.parameters
            if parameter.name.startswith(("layer3.", "layer4.")) and parameter.name.endswith("bias")
        )

    @pytest.mark.parametrize(
        ("selector", "message"),
        [
            ("layr1", "'layr1' matches nothing; did you mean layer1"),
            ("layer1 & layer10", "'layer1 & layer10' matches nothing, though each"),
            ("type:Liner", "did you mean Linear"),
            ("layer1, layr10", "'layr10' matches nothing; did you mean layer10"),
            ("!layr1", "'layr1' matches nothing"),
            ("layer1 & !/weigth/", "'/weigth/' matches nothing"),
            ("!!layer1", "more than one !"),
            ("LAYER1", "did you mean layer1?"),
            (":nrom", "':nrom' is unknown; did you mean :norm?"),
            (":zzz", "there are :all :norm :bias :1d :head :stem :new :loaded :computed :resized"),
            (":fresh", "is written :new"),
            ("typ:Linear", "only type: and the :words have a colon"),
            ("type:", "lacks the class"),
            ("/(/", "is no regular expression: missing )"),
            ("(layer1", "is no regular expression"),
            ("/layer1", "that no / ends"),
            ("//", "is an empty regular expression"),
            ("", "lacks a name"),
            ("!", "lacks a name"),
            ("layer1,", "lacks a name"),
            ("layer1, & :bias", "lacks a name"),
            (":head", "nothing at hand tells which layers"),
            (":stem", "only timm's models tell"),
            ("layer1 layer10", "put , or & between them"),
            ("layer[1", "hold a set of characters"),
            ("layer1]", "hold a set of characters"),
            ("layer[z-a]", "z-a runs backwards"),
            ("layer{1,2}", "braces belong to a /regular expression/"),
            ("layer1..bias", "has an empty segment"),
            ("layer1/", "has an empty segment"),
            (":new", "asks what a transfer loaded"),
        ],
    )
    def test_errors(self, selector: str, message: str) -> None:
        with pytest.raises(SelectorError) as caught:
            select(Odd(), selector)
        assert message in caught.value.message

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            (":head", ("head.weight", "head.bias")),
            (":stem & :bias", ("patch_embed.proj.bias",)),
            (":head & :bias, !:all", ("head.bias",)),
        ],
    )
    def test_the_ends_of_a_network_that_tells_them(self, selector, names) -> None:
        model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
        assert select(model, selector) == names
        wrapped = nn.DataParallel(model)
        assert select(wrapped, ":head & :bias") == ("module.head.bias",)

    def test_a_lazy_parameter_has_no_shape_to_be_asked_about(self) -> None:
        with pytest.raises(SurgeryError, match="run one batch through the model first"):
            select(nn.LazyLinear(2), ":bias")

    def test_types_need_an_architecture(self, resnet: ModelSpec) -> None:
        file = ModelSpec.from_tensors(resnet.tensors)
        with pytest.raises(SelectorError, match="name the architecture"):
            select(file, "type:Conv2d")
        assert select(file, ":norm") == select(resnet, ":norm")


STATUS = {"0.weight": "loaded", "0.bias": "resized", "1.weight": "fresh", "1.bias": "fresh"}


class TestStatus:
    @pytest.mark.parametrize(
        ("selector", "expected"),
        [
            (":new", ("1.weight", "1.bias")),
            (":loaded", ("0.weight",)),
            (":resized", ("0.bias",)),
            ("!:new & :bias", ("0.bias",)),
        ],
    )
    def test_what_a_transfer_did(self, selector: str, expected: tuple[str, ...]) -> None:
        class Outcome:
            loaded = ("0.weight",)
            computed = ()
            resized = ("0.bias",)
            fresh = ("1.weight", "1.bias")

        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        assert select(model, selector, transfer=Outcome()) == expected
        assert select(model, selector, transfer=STATUS) == expected

    def test_holds_after_the_model_is_wrapped(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        assert select(nn.DataParallel(model), ":loaded", transfer=STATUS) == ("module.0.weight",)

    def test_unknown_status(self) -> None:
        with pytest.raises(SelectorError, match="not lodaed"):
            select(nn.Linear(1, 1), ":new", transfer={"weight": "lodaed"})


class TestTied:
    @pytest.mark.parametrize("selector", ["embed", "lm_head", "type:Linear & !:1d & lm_head"])
    def test_every_alias_counts(self, selector: str) -> None:
        assert select(TiedLanguageModel(), selector) == ("embed.weight",)

    def test_negation_leaves_out_the_parameter(self) -> None:
        assert select(TiedLanguageModel(), "!lm_head") == ("body.weight", "body.bias")


class TestWrapped:
    def test_wrappers_are_looked_through(self) -> None:
        wrapped = nn.DataParallel(Odd())
        assert select(wrapped, "layer1") == ("module.layer1.weight", "module.layer1.bias")
        assert select(wrapped, "/^layer1.w/") == ("module.layer1.weight",)

    def test_a_real_submodule_called_module_is_a_name(self) -> None:
        model = nn.ModuleDict({"module": nn.Linear(1, 1), "fc": nn.Linear(1, 1)})
        assert select(model, "fc.weight") == ("fc.weight",)


def test_a_module_is_selected_by_its_path_or_its_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
    spec = describe(model)

    def modules(selector: str) -> list[str]:
        meant = Subjects(Answers(spec).modules()).meant_by(parse_selector(selector))
        return [spec.modules[at].path for at in sorted(meant.indices)]

    assert modules("1") == modules(":norm") == modules("/running_mean/") == ["1"]
    assert modules(":all") == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bias", True),
        ("fc.bias", True),
        ("attn.in_proj_bias", True),
        ("attn.q_bias", True),
        ("rnn.bias_ih_l0", True),
        ("attn.relative_position_bias_table", False),
        ("attention_biases", False),
        ("bias.weight", False),
        ("unbiased", False),
    ],
)
def test_is_bias(name: str, expected: bool) -> None:
    assert is_bias(name) is expected


@given(
    st.lists(st.sampled_from(["layer1", "layer1*", ":bias", "!:1d", "/0/", "type:*"]), min_size=1)
)
def test_a_union_is_the_sum_of_its_parts(parts: list[str]) -> None:
    spec = SPEC
    together = set(select(spec, ", ".join(parts)))
    assert together == set().union(*(select(spec, part) for part in parts))
    inverse = {p.name for p in spec.parameters} - set(select(spec, parts[0]))
    opposite = parts[0].removeprefix("!") if parts[0].startswith("!") else f"!{parts[0]}"
    if inverse:
        assert set(select(spec, opposite)) == inverse


SPEC = describe(Odd())
