"""Two networks that are one, in whatever way they are written; and what that is not."""

from __future__ import annotations

import copy
import random

import pytest
import timm
import torch
import torchvision
import transformers
from decoders import TOKENS, VOCABULARY, decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery import SurgeryError
from surgery.matching.code.trace import leaves_of
from surgery.matching.recipes.recipe import View
from surgery.specs import TensorSpec
from surgery.transfers.recipe_tensors import make_tensor

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def carried(found, source: nn.Module, target: nn.Module) -> None:
    """Load the target by the mapping alone, from the source's own weights."""
    state = source.state_dict()
    made = {
        name: make_tensor(
            match.recipe or View.of(TensorSpec.of(match.source, state[match.source])),
            state.__getitem__,
            state[match.source].dtype,
        )
        for name, match in found.mapping.items()
    }
    own = target.state_dict()
    made |= {name: torch.zeros_like(own[name]) for name in found.zeros}
    assert made.keys() >= leaves_of(target).keys()
    target.load_state_dict(made, strict=False)


def tensor(output) -> torch.Tensor:
    return getattr(output, "logits", output)


def randomised(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for leaf in leaves_of(model).values():
            leaf.copy_(0.5 + torch.rand(leaf.shape, generator=generator) / (leaf.dim() + 1))
    return model.double().eval()


def check(source: nn.Module, target: nn.Module, given) -> None:
    """They are one, and the mapping makes the target compute what the source does."""
    found = surgery.compare(source, target, inputs=given)
    assert found.same, found
    assert found.difference is None
    assert not found.open
    source, target = randomised(source, 1), randomised(target, 2)
    carried(found, source, target)
    one, other = given if isinstance(given, list) else (given, given)
    with torch.no_grad():
        wanted, got = (
            tensor(model(**its) if isinstance(its, dict) else model(_wide(its)))
            for model, its in ((source, one), (target, other))
        )
    assert (wanted - got).abs().max() <= 1e-9 * wanted.abs().max()


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value


WAYS = {
    "apart": {"rows": "apart"},
    "stored (in, out)": {"stored": "(in, out)"},
    "by heads": {"rows": "heads"},
    "v first": {"rows": "v first"},
    "numbers of heads side by side": {"rows": "numbers"},
    "all at once": {"rows": "apart", "stored": "(in, out)"},
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_one_decoder_in_two_ways(way, turned):
    models = decoder(), decoder(**WAYS[way])
    check(*(models[::-1] if turned else models), TOKENS)


PLAIN = st.fixed_dictionaries(
    {
        "rows": st.sampled_from(["apart", "blocks", "heads", "v first", "numbers"]),
        "stored": st.sampled_from(["(in, out)", "(out, in)"]),
    }
)
ROTARY = st.fixed_dictionaries(
    {
        "rows": st.sampled_from(["apart", "blocks", "v first"]),
        "rotary": st.sampled_from(["halves", "pairs"]),
        "gated": st.sampled_from(["apart", "fused", "in turns"]),
        "norm": st.just(nn.RMSNorm),
        "groups": st.just(2),
    }
)


@settings(max_examples=12, deadline=None)
@given(st.one_of(st.tuples(PLAIN, PLAIN), st.tuples(ROTARY, ROTARY)))
def test_any_two_ways_of_writing_are_one_network(ways):
    one, other = ways
    check(decoder(**one, depth=1), decoder(**other, depth=1), TOKENS)


MODERN = {"rows": "apart", "rotary": "halves", "gated": "apart", "norm": nn.RMSNorm, "groups": 2}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"rotary": "pairs"},
        {"rows": "blocks"},
        {"gated": "fused"},
        {"gated": "in turns"},
        {"rotary": "pairs", "rows": "blocks", "gated": "fused"},
    ],
    ids=str,
)
def test_grouped_queries_rotary_halves_and_gates(change, turned):
    models = decoder(**MODERN), decoder(**{**MODERN, **change})
    check(*(models[::-1] if turned else models), TOKENS)


def small_timm_vit():
    return timm.models.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=4, num_classes=10
    )


def small_torchvision_vit():
    model = torchvision.models.VisionTransformer(64, 16, 2, 4, 48, 192, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    return model


def small_transformers_vit():
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=64,
        patch_size=16,
        num_labels=10,
        layer_norm_eps=1e-6,
    )
    return transformers.ViTForImageClassification(config)


VITS = {
    "timm": small_timm_vit,
    "torchvision": small_torchvision_vit,
    "transformers": small_transformers_vit,
}


@pytest.mark.parametrize("target", VITS)
@pytest.mark.parametrize("source", VITS)
def test_vision_transformers_of_three_libraries(source, target):
    check(VITS[source](), VITS[target](), IMAGE)


@pytest.mark.parametrize(
    ("one", "other"),
    [("resnet18", "resnet18"), ("mobilenet_v2", "mobilenetv2_100")],
)
def test_convolutional_networks_of_two_libraries(one, other):
    models = getattr(torchvision.models, one)(), timm.create_model(other)
    check(*models, IMAGE)
    check(*(model.float() for model in reversed(models)), IMAGE)


def shared_sizes() -> dict[str, int]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }


@pytest.mark.parametrize("turned", [False, True])
def test_llama_and_phi3_of_transformers(turned):
    pair = (
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**shared_sizes())),
        transformers.Phi3ForCausalLM(
            transformers.Phi3Config(**shared_sizes(), rms_norm_eps=1e-6, pad_token_id=0)
        ),
    )
    check(*(pair[::-1] if turned else pair), TOKENS)


class Experts(nn.Module):
    """Of four experts two look at each token; they are apart, or stacked in one parameter."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.choose, self.stacked = nn.Linear(8, 4, bias=False), stacked
        if stacked:
            self.up, self.down = (nn.Parameter(torch.randn(4, *x)) for x in ((8, 12), (12, 8)))
        else:
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 12, bias=False), nn.GELU(), nn.Linear(12, 8, bias=False))
                for _ in range(4)
            )

    def forward(self, x):
        weights, chosen = self.choose(x).softmax(-1).topk(2, -1)
        total = torch.zeros_like(x)
        for at in range(4):
            token, rank = (chosen == at).nonzero(as_tuple=True)
            given = x[token]
            if self.stacked:
                made = nn.functional.gelu(given @ self.up[at]) @ self.down[at]
            else:
                made = self.experts[at](given)
            total = total.index_add(0, token, made * weights[token, rank, None])
        return total


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_apart_and_stacked(stacked):
    tokens = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    check(Experts(stacked), Experts(not stacked), tokens)


class Pictures(nn.Module):
    """A linear layer over flattened pixels is a convolution that spans them."""

    def __init__(self, convolved: bool, last: bool) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.convolved, self.last = convolved, last
        self.mix = nn.Conv2d(6, 20, 4) if convolved else nn.Linear(96, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        if not self.convolved:
            x = x.permute(0, 2, 3, 1) if self.last else x
        return self.head(self.mix(x if self.convolved else x.flatten(1)).flatten(1).tanh())


@pytest.mark.parametrize("last", [False, True])
def test_pixels_flattened_in_either_order(last):
    image = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    check(Pictures(True, False), Pictures(False, last), image)
    check(Pictures(False, last), Pictures(True, False), image)


def test_a_bias_that_the_source_does_without_is_zero():
    one, other = nn.Linear(4, 3, bias=False), nn.Linear(4, 3)
    found = surgery.compare(one, other, inputs=torch.randn(5, 4))
    assert found.same
    assert found.zeros == ("bias",)
    check(one, other, torch.randn(5, 4))


class Renamed(nn.Module):
    """The same network below attributes of random letters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        rng = random.Random(0)
        self.inner = copy.deepcopy(model)
        for module in [*self.inner.modules()]:
            if isinstance(module, nn.ModuleList):
                continue
            for name in [*dict(module.named_children())]:
                new = "".join(rng.choices("bcdfghjklm", k=7))
                module.add_module(new, module._modules.pop(name))
                # The code asks for the old name; the module goes by the new one alone.
                module.__dict__[name] = getattr(module, new)

    def forward(self, *args):
        return self.inner(*args)


def test_names_are_not_read():
    source = decoder(**MODERN)
    target = Renamed(source)
    check(source, target, TOKENS)


@pytest.mark.parametrize(
    "name", ["convnextv2_atto", "levit_128s", "hiera_tiny_224", "hrnet_w18_small"]
)
def test_a_second_instance_is_mapped_to_itself(name):
    one, other = timm.create_model(name), timm.create_model(name)
    found = surgery.compare(one, other)
    assert found.same, found
    assert all(match.source == target for target, match in found.mapping.items())
    assert all(match.recipe is None for match in found.mapping.values())


def test_neither_network_is_changed():
    models = [torchvision.models.resnet18(), timm.create_model("resnet18")]
    models[0].train()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    noted = [{name: set(vars(x)) for name, x in model.named_modules()} for model in models]
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    assert surgery.compare(*models, inputs=IMAGE)
    for model, saved, attributes in zip(models, before, noted, strict=True):
        assert all(torch.equal(saved[name], x) for name, x in model.state_dict().items())
        assert {name: set(vars(x)) for name, x in model.named_modules()} == attributes
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(x.dtype in (torch.float32, torch.int64) for x in model.state_dict().values())
    assert models[0].training
    assert all(x.training for x in models[0].modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() is dtype


@pytest.mark.parametrize("used_before", [False, True])
def test_what_a_network_keeps_of_its_weights_is_kept_as_it_was(used_before):
    """LeViT remembers its attention biases in eval mode."""
    one, other = (timm.create_model("levit_128s").eval() for _ in range(2))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = one(image) if used_before else None
        assert surgery.compare(one, other)
        fresh = timm.create_model("levit_128s").eval()
        fresh.load_state_dict(one.state_dict())
        assert torch.equal(one(image), fresh(image) if before is None else before)


def test_a_hook_can_be_removed_afterwards():
    model, seen = nn.Linear(4, 4), []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    surgery.compare(model, nn.Linear(4, 4))
    handle.remove()
    seen.clear()
    model(torch.ones(1, 4))
    assert not seen


class Classed(nn.Module):
    """A token of its own before the others; tokens come first or behind the batch."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.token = first, nn.Parameter(torch.zeros(1, 1, 8))
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = x.transpose(0, 1) if self.first else x
        token = self.token.expand((1, x.shape[1], 8) if self.first else (x.shape[0], 1, 8))
        x = self.mix(torch.cat([token, x], 0 if self.first else 1)).tanh()
        return self.head(x.mean(0 if self.first else 1))


@pytest.mark.parametrize("first", [False, True])
def test_a_token_of_its_own_with_tokens_first_or_behind(first):
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    check(Classed(first), Classed(not first), tokens)


class Overflowing(nn.Module):
    """Gives numbers, and something beside them that is no number, or is another one."""

    def __init__(self, beside: float) -> None:
        super().__init__()
        self.fc, self.beside = nn.Linear(4, 3), beside

    def forward(self, x):
        y = self.fc(x)
        return y, y * self.beside, y > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(1.0, 1.0, True), (1.0, float("nan"), False), (float("inf"), float("inf"), True)],
)
def test_what_is_no_number_on_one_side_is_not_proven(one, other, same):
    found = surgery.compare(Overflowing(one), Overflowing(other), inputs=torch.randn(5, 4))
    assert found.same == same


def test_batch_norms_that_move_at_another_pace_are_one():
    one, other = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=m)) for m in (1e-3, 3e-3)
    )
    found = surgery.compare(one, other, inputs=torch.randn(2, 3, 9, 9))
    assert found.same
    assert not found.scalars


def test_tied_weights_are_one():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, n_positions=16
    )
    one, other = (transformers.GPT2LMHeadModel(config) for _ in range(2))
    found = surgery.compare(one, other, inputs=TOKENS)
    assert found.same
    assert all(match.source == name for name, match in found.mapping.items())


def test_rows_of_a_table_that_the_input_does_not_reach_follow_and_that_is_said():
    found = surgery.compare(decoder(), decoder(), inputs=TOKENS)
    assert any("did not reach" in text for text in found.mapping["places.weight"].evidence)
    assert not any("did not reach" in text for text in found.mapping["words.weight"].evidence)


class Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


def test_what_no_output_depends_on_is_open_and_never_decided():
    found = surgery.compare(Unread(), Unread(), inputs=torch.randn(3, 4))
    assert {"unused.weight", "unused.bias"} == found.open.keys()
    assert not found.same
    assert found.mapping.keys() == {"used.weight", "used.bias"}


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        raise ValueError("a picture of another kind")


def test_a_network_that_cannot_run_is_an_error_that_says_what_was_tried():
    with pytest.raises(SurgeryError, match="inputs=") as caught:
        surgery.compare(Failing(), nn.Linear(4, 4))
    assert "the first network" in str(caught.value)
    assert "a picture of another kind" in str(caught.value)


def test_given_inputs_that_do_not_run_say_which_network_did_not_take_them():
    with pytest.raises(SurgeryError, match="given inputs=") as caught:
        surgery.compare(nn.Linear(4, 4), nn.Linear(5, 4), inputs=torch.ones(2, 4))
    assert "the second network" in str(caught.value)


@pytest.mark.parametrize("given", [[torch.ones(1, 4)], [torch.ones(1, 4)] * 3])
def test_inputs_are_for_both_or_a_pair(given):
    with pytest.raises(SurgeryError, match="list of two"):
        surgery.compare(nn.Linear(4, 4), nn.Linear(4, 4), inputs=given)


def test_each_network_may_have_its_own_input():
    check(
        nn.Linear(4, 3), nn.Linear(4, 3), [{"input": torch.ones(2, 4).double()}, torch.ones(2, 4)]
    )
