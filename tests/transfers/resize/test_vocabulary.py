import pytest
import torch
from tiny_models import TiedLanguageModel, randomise
from torch import nn

import surgery
from surgery.specs import TensorSpec
from surgery.transfers import plan_transfer
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest


def grown(new="mean", bias=True):
    """A vocabulary of seven becomes one of ten, with a layer that scores them."""

    def make(words):
        parts = {"embed_tokens": nn.Embedding(words, 4), "lm_head": nn.Linear(4, words, bias=bias)}
        return randomise(nn.ModuleDict(parts), words).double()

    source, model = make(7), make(10)
    initial = model["embed_tokens"].weight.detach().clone()
    if new == "mean":
        outcome = surgery.transfer(source, model, resize="auto")
    else:
        asked = {"**": ("vocabulary", {"new": new})}
        outcome = surgery.transfer(source, model, resize=asked, min_loaded=0)
    return source, model, outcome, initial


def test_new_words_get_the_mean():
    source, model, outcome, _ = grown()
    assert outcome.resized == ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")
    assert outcome.loaded_fraction == 1.0
    for name in outcome.resized:
        old, new = source.state_dict()[name], model.state_dict()[name]
        assert torch.equal(new[:7], old)
        torch.testing.assert_close(new[7:], torch.stack([old.mean(0)] * 3), rtol=1e-15, atol=0)


def test_the_logits_of_old_words_stay_and_new_words_get_their_mean():
    source, model, _, _ = grown()
    hidden = torch.rand(5, 4, dtype=torch.float64)
    old, new = source["lm_head"](hidden), model["lm_head"](hidden)
    torch.testing.assert_close(new[:, :7], old, rtol=1e-14, atol=0)
    torch.testing.assert_close(new[:, 7:], old.mean(1, keepdim=True).expand(5, 3))


def test_new_words_stay_fresh_where_that_was_chosen():
    source, model, outcome, initial = grown("fresh")
    weight = model["embed_tokens"].weight
    assert torch.equal(weight[:7], source["embed_tokens"].weight)
    assert torch.equal(weight[7:], initial[7:])
    assert outcome.plan.by_target["embed_tokens.weight"].method.initial == 12
    assert outcome.loaded_fraction == pytest.approx(0.7, abs=1e-15)


def test_tied_words(tmp_path):
    source, model = randomise(TiedLanguageModel(11)), TiedLanguageModel(13)
    state = {k: v for k, v in source.state_dict().items() if k != "lm_head.weight"}
    outcome = surgery.transfer(state, model, resize="auto", min_loaded=0)
    assert outcome.resized == ("embed.weight", "lm_head.weight")
    assert "tied to embed.weight" in outcome.plan.by_target["lm_head.weight"].reason
    assert torch.equal(model.lm_head.weight[:11], source.embed.weight)
    assert model.lm_head.weight is model.embed.weight
    (tmp_path / "make.py").write_text("from tiny_models import TiedLanguageModel as make\n")
    surgery.save(state, tmp_path / "old.pt")
    job = plan(
        TransferRequest(
            source=surgery.open_checkpoint(tmp_path / "old.pt"),
            target=f"{tmp_path / 'make.py'}:make",
            arguments={"vocabulary": 13},
            resize="auto",
        )
    )
    job.write(tmp_path / "new.pt")
    written = torch.load(tmp_path / "new.pt", weights_only=True)
    assert torch.equal(written["lm_head.weight"], model.lm_head.weight)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("fc.weight", (7, 4), (10, 4), id="a-head"),
        pytest.param("position_embeddings.weight", (7, 4), (10, 4), id="positions"),
        pytest.param("embed_tokens.weight", (10, 4), (7, 4), id="fewer-words"),
    ],
)
def test_what_is_no_growth_of_a_vocabulary(name, old, new):
    sides = [[TensorSpec(name, shape, "float32")] for shape in (old, new)]
    step = plan_transfer(*sides, resize="auto").by_target[name]
    assert step.state == "fresh"


def test_names_tell_where_types_are_unknown():
    name = "transformer.wte.weight"
    sides = [[TensorSpec(name, (words, 4), "float32")] for words in (50257, 50304)]
    step = plan_transfer(*sides, resize="auto").by_target[name]
    assert step.state == "resized"
    assert step.reason == "50257 words to 50304, the new rows the mean of the old"
