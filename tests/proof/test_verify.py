"""Two networks and a plan: what is proven, what is refuted, and what is only said."""

import dataclasses
import json
import math
import re
import warnings
from random import Random

import pytest
import timm
import torch
import torchvision
from structure_plans import structure_plan
from tiny_models import TiedLanguageModel, TinyNet, randomise, same_bits, snapshot
from torch import nn

import surgery
from surgery.errors import SurgeryError
from surgery.proof import refuse_unproven
from surgery.proof.proof import BEHIND, OTHERWISE


def verify(source, target, mapping=None, **settings):
    plan = surgery.plan_transfer(source, target, mapping=mapping)
    return surgery.verify_transfer(source, target, plan, **settings)


class Net(nn.Module):
    """A network with every hyper-parameter that two implementations get wrong."""

    def __init__(
        self, *, act=None, eps=1e-5, norm_eps=1e-6, pool=None, classes=4, same=False, **conv
    ) -> None:
        super().__init__()
        self.same = same
        self.conv = nn.Conv2d(3, 8, 3, **{"padding": 1, "stride": 2, **conv})
        self.bn = nn.BatchNorm2d(8, eps=eps)
        self.act = act or nn.ReLU()
        self.pool = pool or nn.MaxPool2d(2)
        self.mix = nn.Conv2d(8, 8, 1)
        self.norm = nn.LayerNorm(8, eps=norm_eps)
        self.fc = nn.Linear(8, classes) if classes else nn.Identity()

    def forward(self, x):
        x = nn.functional.pad(x, (0, 1, 0, 1)) if self.same else x
        x = self.mix(self.pool(self.act(self.bn(self.conv(x)))))
        return self.fc(self.norm(x.mean((2, 3))))


def test_two_libraries_one_network():
    proof = verify(torchvision.models.resnet18(), timm.create_model("resnet18"))
    assert proof.holds
    assert proof.largest == 0
    assert len(proof.moved) == 102
    assert proof.settings == ()
    assert str(proof).startswith("the source and the target compute the same\noutput compared")


def test_a_different_implementation_of_the_same_formula():
    class Written(Net):
        def forward(self, x):
            x = self.conv(x)
            x = self.bn.weight.view(1, -1, 1, 1) * (
                (x - self.bn.running_mean.view(1, -1, 1, 1))
                / torch.sqrt(self.bn.running_var.view(1, -1, 1, 1) + self.bn.eps)
            ) + self.bn.bias.view(1, -1, 1, 1)
            x = self.pool(x.clamp(min=0))
            x = torch.einsum("oi,nihw->nohw", self.mix.weight[:, :, 0, 0], x)
            x = (x + self.mix.bias.view(1, -1, 1, 1)).flatten(2).sum(-1) / x[0, 0].numel()
            x = x - x.mean(-1, keepdim=True)
            x = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.norm.eps)
            return x * self.norm.weight @ self.fc.weight.T + (
                self.norm.bias @ self.fc.weight.T + self.fc.bias
            )

    proof = verify(randomise(Net()), Written())
    assert proof.holds, proof
    assert 0 < proof.largest < 1e-12


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("blocks.0.0.weight", "blocks.1.0.weight", id="layers"),
        pytest.param("bn.weight", "bn.bias", id="one-module"),
        pytest.param("bn.running_mean", "blocks.2.1.running_mean", id="buffers"),
        pytest.param("bn.running_var", "bn.weight", id="buffer-and-parameter"),
        pytest.param("blocks.2.0.bias", "blocks.2.1.bias", id="biases"),
    ],
)
def test_two_swapped_tensors_are_named(one, other):
    proof = verify(randomise(TinyNet()), TinyNet(), {f"^{one}$": other, f"^{other}$": one})
    assert not proof.holds
    assert not proof.networks_differ
    found = {move.source: move for move in proof.movements if move.verdict == OTHERWISE}
    assert found.keys() == {one, other}
    assert found[one].targets == (other,)
    assert found[one].acts_as == (other,)
    assert found[other].acts_as == (one,)
    assert proof.verdict == "2 tensors are in another's place"
    assert f"{other} takes {one}, and acts as {other}" in str(proof)


def test_a_cycle_of_three():
    names = [f"blocks.{at}.0.weight" for at in (0, 1, 2)]
    renames = {f"^{old}$": new for old, new in zip(names, names[1:] + names[:1], strict=True)}
    proof = verify(randomise(TinyNet()), TinyNet(), renames)
    acting = {move.source: move.acts_as for move in proof.movements if move.acts_as}
    assert acting == {old: (new,) for old, new in zip(names, names[1:] + names[:1], strict=True)}


@pytest.mark.parametrize(
    ("changed", "place", "name", "texts"),
    [
        pytest.param({"eps": 1e-3}, "bn", "eps", ("1e-05", "0.001"), id="batch-norm-eps"),
        pytest.param({"norm_eps": 1e-5}, "norm", "eps", ("1e-06", "1e-05"), id="layer-norm-eps"),
        pytest.param({"stride": 1}, "conv", "stride", ("2", "1"), id="stride"),
        pytest.param({"padding": 0}, "conv", "padding", ("1", "0"), id="padding"),
        pytest.param({"dilation": 2}, "conv", "dilation", ("1", "2"), id="dilation"),
        pytest.param(
            {"padding": 0, "same": True},
            "conv",
            "padded before",
            ("-", "pad=(0, 1, 0, 1), mode=constant"),
            id="same-padding",
        ),
        pytest.param(
            {"padding_mode": "reflect"}, "conv", "padding_mode", ("zeros", "reflect"), id="mode"
        ),
        pytest.param(
            {"act": nn.GELU()},
            "mix",
            "called before",
            ("relu, max_pool2d", "gelu(approximate=none), max_pool2d"),
            id="activation",
        ),
        pytest.param(
            {"act": nn.LeakyReLU(0.2)}, "mix", "called before", ("relu", "leaky_relu"), id="slope"
        ),
        pytest.param(
            {"pool": nn.AvgPool2d(2)},
            "mix",
            "called before",
            ("max_pool2d", "avg_pool2d"),
            id="pool",
        ),
    ],
)
def test_the_same_weights_in_another_network(changed, place, name, texts):
    proof = verify(randomise(Net()), Net(**changed))
    assert proof.verdict == "weights agree, the networks do not"
    assert proof.networks_differ
    said = [setting for setting in proof.settings if (setting.place, setting.name) == (place, name)]
    assert len(said) == 1, proof.settings
    assert texts[0] in said[0].source
    assert texts[1] in said[0].target
    assert proof.first
    with pytest.raises(surgery.SurgeryError, match="weights agree, the networks do not") as error:
        refuse_unproven(proof)
    assert error.value.exit_code == 1


def test_groups_of_another_number_are_another_shape_and_group_norms_are_not():
    def make(groups):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(groups, 8), nn.Conv2d(8, 2, 1))

    proof = verify(make(2), make(4))
    assert [(s.place, s.name, s.source, s.target) for s in proof.settings] == [
        ("1", "num_groups", "2", "4")
    ]


def test_timms_two_paddings():
    one = timm.create_model("test_efficientnet", pad_type="")
    other = timm.create_model("test_efficientnet", pad_type="same", bn_eps=1e-3)
    proof = verify(one, other)
    assert proof.networks_differ
    assert {setting.name for setting in proof.settings} == {"padding", "padded before", "eps"}


def test_a_swap_behind_a_scale_of_zero():
    """The checkpoint's own values hide it: both outputs are equal."""

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return x + self.scale * self.b(self.a(x).relu())

    honest = verify(Branch(), Branch())
    assert honest.holds
    assert set(honest.hidden) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert "own values hide what these do" in str(honest)
    swapped = verify(Branch(), Branch(), {"a": "b", "b": "a"})
    assert swapped.own.agrees
    assert not swapped.holds
    assert {move.source for move in swapped.movements if move.acts_as} == set(honest.hidden)


class Spare(nn.Module):
    """A layer that is there and, where ``used`` says so, has a part in the output."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used = used
        self.first, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.spare(self.first(x)) if self.used else self.first(x)


def test_a_dead_tensor_is_said():
    proof = verify(Spare(False), Spare(False))
    assert proof.holds
    assert [move.source for move in proof.unseen] == ["spare.weight", "spare.bias"]
    assert "move neither network: spare.{weight,bias}" in str(proof)


def test_a_tensor_that_is_dead_on_one_side_only():
    assert not verify(Spare(True), Spare(False)).holds
    assert not verify(Spare(False), Spare(True)).holds


def test_nothing_but_dead_tensors_proves_nothing():
    class Still(Spare):
        def forward(self, x):
            return x * 2

    proof = verify(Still(False), Still(False))
    assert not proof.holds
    assert "nothing is proven" in proof.verdict


@pytest.mark.parametrize("classes", [7, 0])
def test_another_head_compares_features(classes):
    proof = verify(randomise(Net()), Net(classes=classes))
    assert proof.holds
    assert proof.random.points[0].source == "features"
    assert {move.source for move in proof.movements} >= {"norm.weight", "mix.bias"}
    swapped = {"^norm.weight$": "norm.bias", "^norm.bias$": "norm.weight"}
    assert not verify(randomise(Net()), Net(classes=classes), swapped).holds


def test_a_head_that_is_left_out_as_asked_compares_features():
    proof = verify(randomise(Net()), Net(), "fc -> (unused)\n")
    assert proof.holds
    assert [(point.source, point.target) for point in proof.random.points] == [
        ("features", "features")
    ]
    assert "not transferred in the source: fc.weight, fc.bias" in str(proof)


def test_what_acts_behind_a_fresh_layer_is_not_called_proven():
    class Longer(Net):
        def __init__(self):
            super().__init__()
            self.between = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = self.between(self.bn(self.conv(x)))
            return self.fc(self.norm(self.mix(self.pool(self.act(x))).mean((2, 3))))

    proof = verify(randomise(Net()), Longer())
    assert not proof.holds
    behind = {move.source for move in proof.movements if move.verdict == BEHIND}
    assert behind == {"mix.weight", "mix.bias", "norm.weight", "norm.bias", "fc.weight", "fc.bias"}


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: object = None


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda y: (y,), id="tuple"),
        pytest.param(lambda y: {"out": y, "aux": y[:, :1]}, id="mapping"),
        pytest.param(Answer, id="dataclass"),
        pytest.param(lambda y: [Answer(y), "text", 3], id="nested"),
    ],
)
def test_outputs_of_any_form(wrap):
    class Wrapped(TinyNet):
        def forward(self, x):
            return wrap(super().forward(x))

    assert verify(randomise(TinyNet()), Wrapped()).holds
    assert verify(randomise(Wrapped()), Wrapped()).holds
    assert not verify(
        randomise(TinyNet()), Wrapped(), {"^bn.weight$": "bn.bias", "^bn.bias$": "bn.weight"}
    ).holds


def test_tokens_and_ties():
    proof = verify(randomise(TiedLanguageModel()), TiedLanguageModel())
    assert proof.holds
    assert proof.shown == "2 x 12 random tokens"


def test_a_tie_that_the_target_does_not_have():
    class Untied(TiedLanguageModel):
        def __init__(self):
            super().__init__()
            self.lm_head.weight = nn.Parameter(torch.zeros(11, 4))

    assert verify(randomise(TiedLanguageModel()), Untied()).holds


def test_the_models_stay_as_they_are():
    source, target = randomise(TinyNet()).train(), randomise(TinyNet(7), 1)
    target.fc.weight.requires_grad_(False)
    before = [snapshot(model) for model in (source, target)]
    state = torch.get_rng_state()
    verify(source, target)
    assert all(map(same_bits, before, [snapshot(model) for model in (source, target)]))
    assert source.training
    assert [p.requires_grad for p in target.fc.parameters()] == [False, True]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_the_same_proof_twice():
    one, other = (verify(randomise(Net()), Net(eps=1e-3)).to_dict() for _ in range(2))
    assert json.dumps(one) == json.dumps(other)


def test_rounding_by_the_targets_dtype_is_no_difference():
    proof = verify(randomise(TinyNet()), TinyNet().half())
    assert proof.holds
    assert proof.own.largest == 0


def test_networks_that_ask_for_float32_are_compared_in_float64():
    class Careful(nn.Linear):
        def forward(self, x):
            return nn.functional.softmax(super().forward(x).float(), -1, dtype=torch.float32)

    class Careless(nn.Linear):
        def forward(self, x):
            return super().forward(x).softmax(-1)

    proof = verify(Careful(4, 4), Careless(4, 4))
    assert proof.holds
    assert proof.largest < 1e-14


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


def test_random_networks_draw_alike_or_are_told():
    assert verify(Noisy(4, 2), Noisy(4, 2)).holds
    proof = verify(Noisy(4, 2), nn.Linear(4, 2))
    assert not proof.holds
    assert any("the source draws random numbers in eval mode" in note for note in proof.notes)


def test_what_a_network_remembers_between_runs_is_forgotten():
    class Cached(nn.Module):
        """As timm's LeViT: in eval mode a table is gathered once."""

        def __init__(self):
            super().__init__()
            self.fc, self.bias, self.other = (
                nn.Linear(4, 4),
                *(nn.Parameter(torch.zeros(4)) for _ in range(2)),
            )
            self.cache = {}

        def forward(self, x):
            if "bias" not in self.cache:
                self.cache["bias"] = self.bias * 2
            return self.fc(x + self.cache["bias"]).tanh() + self.other

    source = randomise(Cached())
    proof = verify(source, Cached())
    assert proof.holds
    assert proof.unseen == ()
    swapped = verify(source, Cached(), {"^bias$": "other", "^other$": "bias"})
    assert {move.source: move.acts_as for move in swapped.movements if move.acts_as} == {
        "bias": ("other",),
        "other": ("bias",),
    }


def test_values_that_are_not_finite_prove_nothing():
    source = randomise(TinyNet())
    with torch.no_grad():
        source.fc.weight[0, 0] = math.nan
    proof = verify(source, TinyNet())
    assert not proof.holds
    assert proof.random.agrees
    assert proof.verdict == "the networks give values that are not finite"


def test_an_input_of_the_users_own():
    assert "3x9x11" in verify(randomise(TinyNet()), TinyNet(), shape=(3, 9, 11)).shown


def test_no_input_suits():
    with pytest.raises(SurgeryError, match="no input was found") as error:
        verify(TinyNet(), TinyNet(), shape=(4, 8, 8))
    assert "expected input[2, 4, 8, 8] to have 3 channels" in str(error.value)


def test_a_source_model_of_another_architecture():
    plan = surgery.plan_transfer(TinyNet(7), TinyNet(7))
    with pytest.raises(
        SurgeryError, match="no checkpoint of the source: it has no place for 2 tensors"
    ) as error:
        surgery.verify_transfer(TinyNet(5), TinyNet(7), plan)
    assert "fc.weight is (7, 8), and (5, 8) there" in str(error.value)


def test_two_tensors_cannot_become_one():
    class Untied(TiedLanguageModel):
        def __init__(self):
            super().__init__()
            self.lm_head.weight = nn.Parameter(torch.zeros(11, 4))

    source = randomise(Untied())
    proof = verify(source, TiedLanguageModel())
    assert not proof.holds
    assert {move.source for move in proof.against} == {"embed.weight", "lm_head.weight"}
    assert "embed.weight takes embed.weight, and moves the two" in str(proof)
    with torch.no_grad():
        source.lm_head.weight.copy_(source.embed.weight)
    assert verify(source, TiedLanguageModel()).holds


def test_weight_norm_in_both_spellings():
    def of(norm):
        return nn.Sequential(norm(nn.Linear(3, 6)), nn.ReLU(), norm(nn.Linear(6, 4)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = of(nn.utils.weight_norm)
    new = of(nn.utils.parametrizations.weight_norm)
    for source, target in ((old, new), (new, old)):
        proof = surgery.verify_transfer(source, target, structure_plan(source, target))
        assert proof.holds, proof
        assert len(proof.moved) == 6


def test_a_scripted_model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scripted = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(SurgeryError, match="a scripted model cannot be followed"):
        verify(scripted, nn.Linear(3, 2))


def test_names_of_wrappers_are_looked_through():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = randomise(TinyNet())

        def forward(self, x):
            return self.module(x)

    assert verify(Wrapper(), TinyNet()).holds


def test_json():
    proof = verify(randomise(Net()), Net(eps=1e-3))
    data = json.loads(json.dumps(proof.to_dict()))
    assert data["holds"] is False
    assert data["settings"] == [
        {"place": "bn", "name": "eps", "source": "1e-05", "target": "0.001"}
    ]


class Attention(nn.Module):
    """Queries, keys and values of one shape each, and a projection of that shape too."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        x = torch.stack([x, x.flip(-1), x.roll(1, -1)], 1)
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / 8**0.5
        return self.out(scores.softmax(-1) @ self.v(x)).sum(1)


@pytest.mark.parametrize("one", "qkv")
@pytest.mark.parametrize("other", ["k", "v", "out"])
def test_projections_of_attention_that_are_swapped(one, other):
    renames = {one: other, other: one} if one != other else None
    proof = verify(randomise(Attention()), Attention(), renames)
    assert proof.holds == (one == other)
    if one != other:
        acting = {move.source: move.acts_as for move in proof.movements if move.acts_as}
        assert acting[f"{one}.weight"] == (f"{other}.weight",)
        assert acting[f"{other}.weight"] == (f"{one}.weight",)
    else:
        assert [move.source for move in proof.unseen] == ["k.bias"]


@pytest.mark.parametrize("seed", range(25))
def test_any_mix_up_of_tensors_of_one_shape_is_refuted(seed):
    """Every tensor that lands in another's place is named, with whose place it has."""
    random, model = Random(seed), randomise(Net())
    names = [name for name, value in model.state_dict().items() if value.is_floating_point()]
    shapes = {name: model.state_dict()[name].shape for name in names}
    moved = {}
    for name in random.sample(names, random.choice([0, 3, 5, len(names)])):
        alike = [other for other in names if shapes[other] == shapes[name]]
        if name not in moved and len(alike) > 1:
            moved |= dict(zip(alike, random.sample(alike, len(alike)), strict=True))
    moved = {name: other for name, other in moved.items() if name != other}
    renames = {f"^{re.escape(name)}$": other for name, other in moved.items()}
    proof = verify(model, Net(), renames or None)
    assert proof.holds == (not moved), proof
    assert {m.source: m.acts_as for m in proof.movements if m.acts_as} == {
        name: (other,) for name, other in moved.items()
    }


def test_what_random_values_saturate_the_checkpoints_own_decide():
    class Steep(nn.Module):
        """Beyond values of a few hundredths nothing moves it any more."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc((1e4 * (self.a.pow(2) + 0.1 * self.a + 0.01 * self.b)).tanh() + 0 * x)

    honest = verify(Steep(), Steep(), shape=(4,))
    assert honest.holds
    assert honest.unseen == ()
    swapped = verify(Steep(), Steep(), {"^a$": "b", "^b$": "a"}, shape=(4,))
    assert swapped.random.agrees
    assert swapped.own.agrees
    assert not swapped.holds


def test_two_inputs_are_asked_for():
    class Pair(nn.Linear):
        def forward(self, x, y):
            return super().forward(x + y)

    with pytest.raises(SurgeryError, match="no input was found") as error:
        verify(Pair(4, 2), Pair(4, 2))
    assert "missing 1 required positional argument: 'y'" in str(error.value)


def test_a_second_input_that_one_network_may_do_without():
    class Masked(nn.Linear):
        def forward(self, x, mask=None):
            return super().forward(x if mask is None else x * mask)

    assert verify(Masked(4, 2), nn.Linear(4, 2)).holds


def test_complex_tensors():
    class Filter(nn.Module):
        """As GFNet: a product in the frequency domain."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)
            self.one, self.other = (
                nn.Parameter(torch.rand(5, dtype=torch.complex64)) for _ in range(2)
            )

        def forward(self, x):
            spectrum = torch.fft.rfft(self.fc(x))
            return torch.fft.irfft(spectrum * self.one + self.other, n=8)

    source = Filter()
    proof = verify(source, Filter())
    assert proof.holds
    assert {move.source for move in proof.moved} >= {"one", "other"}
    swapped = verify(source, Filter(), {"^one$": "other", "^other$": "one"})
    assert {move.source: move.acts_as for move in swapped.movements if move.acts_as} == {
        "one": ("other",),
        "other": ("one",),
    }


def test_complex_outputs():
    class Spectrum(nn.Linear):
        def forward(self, x):
            return torch.fft.fft(super().forward(x))

    class Turned(nn.Linear):
        def forward(self, x):
            return torch.fft.fft(super().forward(x)).conj()

    assert verify(Spectrum(4, 4), Spectrum(4, 4)).holds
    assert verify(Spectrum(4, 4), Turned(4, 4)).networks_differ


def test_integers_that_act_must_agree():
    class Picked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

        def forward(self, x):
            return self.fc(x)[:, self.order]

    class Reversed(Picked):
        def forward(self, x):
            return self.fc(x)[:, self.order.flip(0)]

    proof = verify(Picked(), Picked())
    assert proof.holds
    assert "integers are not moved: 1 tensors, the first is order" in proof.notes
    assert not verify(Picked(), Reversed()).holds


def test_a_buffer_of_its_own_that_differs():
    """What no checkpoint holds is part of the network: another table is another network."""

    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.fc = nn.Linear(4, 2)
            self.register_buffer("scale", torch.tensor(scale), persistent=False)

        def forward(self, x):
            return self.fc(x) * self.scale

    assert verify(Scaled(2.0), Scaled(2.0)).holds
    assert verify(Scaled(2.0), Scaled(3.0)).networks_differ


def test_an_image_that_is_smaller_than_the_networks_are_made_for():
    class Windowed(nn.Module):
        """Shifts what does not fit into one window; ``always`` shifts all the same."""

        def __init__(self, always):
            super().__init__()
            self.image_size, self.always = 128, always
            self.conv, self.mix = nn.Conv2d(3, 4, 16, 16), nn.Conv2d(4, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x)
            if self.always or x.shape[-1] > 6:
                x = x.roll((1, 1), (2, 3))
            return self.fc(self.mix(x).flatten(2).amax(-1))

    proof = verify(Windowed(False), Windowed(True))
    assert proof.holds
    assert proof.shown == "1 x 3x128x128 random numbers"
    assert "on 2 x 3x96x96 random numbers they differ by" in proof.notes[-1]
    assert not verify(Windowed(False), Windowed(True), shape=(3, 96, 96)).holds
