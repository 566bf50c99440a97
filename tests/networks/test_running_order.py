"""The order in which modules run, without running the model itself."""

from __future__ import annotations

import timm
import torch
from attention_twins import Fused
from tiny_models import TiedLanguageModel, TinyNet, same_bits, snapshot
from torch import nn
from transformers import T5Config, T5Model

from surgery.networks.running_order import running_order


class Backwards(nn.Module):
    """Registers what runs last first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.middle = nn.BatchNorm1d(4)
        self.first = nn.Linear(3, 4)
        self.never = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


def test_modules_in_the_order_in_which_they_run():
    assert running_order(Backwards()) == ("", "first", "middle", "last")


def test_pictures_tokens_and_rows():
    assert running_order(TinyNet())[:4] == ("", "stem", "bn", "blocks.0")
    assert running_order(TiedLanguageModel()) == ("", "embed", "body", "lm_head")


def test_a_network_that_encodes_and_decodes():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    order = running_order(T5Model(T5Config(**sizes)))
    assert 0 < order.index("encoder.block.0") < order.index("decoder.block.0")


def test_a_network_made_for_one_size():
    assert running_order(timm.create_model("vit_tiny_patch16_224"))[:3] == (
        "",
        "patch_embed",
        "patch_embed.proj",
    )


def test_the_model_is_neither_run_nor_changed():
    model = Backwards().train()
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    before = snapshot(model)
    assert running_order(model)
    assert not seen
    assert model.training
    assert same_bits(before, snapshot(model))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weight_norm_runs():
    with torch.random.fork_rng():
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    assert "0" in running_order(model)


class Looks(nn.Module):
    """Decides by the numbers it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if x.sum() > 0 else x


class TakesTwo(Looks):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + y


class Uncopied(Looks):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.fc.weight * 2


def test_what_cannot_be_told_is_not_guessed():
    assert running_order(TakesTwo()) == ()
    assert running_order(Looks()) == ()
    assert running_order(Uncopied()) == ()
    assert running_order(nn.Module()) == ()


def test_a_picture_of_eight_by_eight():
    assert running_order(Fused()) == () or running_order(Fused())[1] == "patch_embed"
