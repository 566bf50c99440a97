"""Language models: transformers' against each other and against people's own plain code."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from two_implementations import calls_of, difference, load, matched, randomised, unloaded, with_eps

from surgery.errors import SurgeryError
from surgery.networks.describe import describe

BERT = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
LLAMA = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x):
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(self.ln1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.fc2(F.gelu(self.fc1(self.ln2(x)), approximate="tanh"))


class OwnGPT(nn.Module):
    """GPT-2 as one writes it oneself: fused q, k and v, and linear layers the usual way round."""

    def __init__(self, words: int = 101, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(words, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, words):
        x = self.tok(words) + self.pos(torch.arange(words.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=101,
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def neox():
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**BERT, bos_token_id=0, eos_token_id=0)
    )


def bert():
    return transformers.BertModel(transformers.BertConfig(**BERT))


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wo = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.wk, self.wv = nn.Linear(32, 16, bias=False), nn.Linear(32, 16, bias=False)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(32, 88, bias=False), nn.Linear(32, 88, bias=False)
        self.w2 = nn.Linear(88, 32, bias=False)


class LlamaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()
        self.attention_norm, self.ffn_norm = nn.RMSNorm(32), nn.RMSNorm(32)


class OwnLlama(nn.Module):
    """LLaMA under the names of its authors' own code; only the names matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(101, 32)
        self.layers = nn.ModuleList(LlamaBlock() for _ in range(3))
        self.norm, self.output = nn.RMSNorm(32), nn.Linear(32, 101, bias=False)


WORDS = torch.randint(0, 101, (2, 12), generator=torch.Generator().manual_seed(0))


def distil():
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=101,
            dim=32,
            n_layers=3,
            n_heads=4,
            hidden_dim=128,
            max_position_embeddings=64,
        )
    )


def roberta():
    return transformers.RobertaModel(transformers.RobertaConfig(**BERT))


@pytest.mark.parametrize("ways", [(gpt2, OwnGPT), (OwnGPT, gpt2)], ids=["from_gpt2", "to_gpt2"])
def test_conv1d_matrices_are_turned_square_ones_too(ways):
    source, target = (randomised(make(), seed) for seed, make in enumerate(ways))
    match = matched(source, target)
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    assert difference(with_eps(source), with_eps(target), WORDS) < 1e-9


def test_bert_and_distilbert():
    source, target = randomised(bert(), 1), randomised(distil(), 2)
    with torch.no_grad():  # what DistilBERT has not
        source.embeddings.token_type_embeddings.weight.zero_()
    match = matched(source, target)
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    assert difference(with_eps(source), with_eps(target), WORDS) < 1e-9


def test_bert_and_roberta_have_one_step_for_each_tensor():
    source, target = bert(), roberta()
    match = matched(source, target)
    assert not unloaded(match, target)
    assert {step.target.name: step.sources[0].name for step in match.steps} == {
        name: name for name in target.state_dict()
    }


def test_a_post_norm_network_is_not_taken_for_a_pre_norm_one():
    match = matched(bert(), gpt2())
    assert "transformer.ln_f.weight" not in {step.target.name for step in match.steps}


@pytest.mark.parametrize("ways", [(neox, gpt2), (gpt2, neox), (neox, OwnGPT)])
def test_rows_that_may_be_interleaved_are_not_taken_for_blocks(ways):
    source, target = (make() for make in ways)
    match = matched(source, target)
    left_open = {name for group in match.open for name in group.targets}
    fused = {
        name for name in target.state_dict() if "qkv" in name or "c_attn" in name or "query" in name
    }
    assert fused == left_open
    assert all("interleaved per head" in group.reason for group in match.open)


def test_gate_and_up_and_how_q_and_k_are_turned_are_settled_by_hints():
    source, target = llama(), OwnLlama()
    match = matched(source, target)
    assert unloaded(match, target) == {
        f"layers.{layer}.{name}.weight"
        for layer in range(3)
        for name in ("feed_forward.w1", "feed_forward.w3", *(f"attention.w{x}" for x in "qkv"))
    }
    assert not match.without_source
    match = matched(source, target, hints=["gate_proj -> w1", "q_proj -> wq"])
    pairs = {step.target.name: step.sources[0].name for step in match.steps}
    assert not unloaded(match, target)
    for layer in range(3):
        for ours, theirs in {
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w3": "mlp.up_proj",
            "attention.wk": "self_attn.k_proj",
            "attention_norm": "input_layernorm",
        }.items():
            assert pairs[f"layers.{layer}.{ours}.weight"] == f"model.layers.{layer}.{theirs}.weight"


def phi3(**more):
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**{**LLAMA, **more}))


EVEN = {"num_key_value_heads": 4}


def even_phi3():
    return phi3(**EVEN)


def even_llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **EVEN}))


@pytest.mark.parametrize("ways", [(even_llama, even_phi3), (even_phi3, even_llama)])
def test_fused_attention_and_fused_gates_of_one_network(ways):
    source, target = (randomised(make(), seed) for seed, make in enumerate(ways))
    (group,) = matched(source, target).open
    match = matched(source, target, hints=[group.hints[0]])
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    assert difference(with_eps(source), with_eps(target), WORDS) < 1e-9


def test_grouped_queries_are_not_taken_out_of_a_fused_matrix():
    source, target = phi3(), llama()
    projections = (".q_proj", ".k_proj", ".v_proj")
    wanted = {n for n, _ in target.named_parameters() if any(part in n for part in projections)}
    assert unloaded(matched(source, target), target) == wanted


def opt():
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=101,
            hidden_size=32,
            ffn_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


class OwnOPT(OwnGPT):
    """OPT as one writes it oneself: two places before the first, and another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Embedding(66, 32)

    def forward(self, words):
        x = self.tok(words) + self.pos(torch.arange(words.shape[1]) + 2)
        for block in self.blocks:
            shape = (*x.shape[:2], block.heads, -1)
            parts = block.qkv(block.ln1(x)).chunk(3, -1)
            q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block.proj(mixed.transpose(1, 2).reshape(x.shape))
            x = x + block.fc2(block.fc1(block.ln2(x)).relu())
        return self.head(self.norm(x))


@pytest.mark.parametrize("ways", [(opt, OwnOPT), (OwnOPT, opt)], ids=["from_opt", "to_opt"])
def test_opt_and_ones_own(ways):
    source, target = (randomised(make(), seed) for seed, make in enumerate(ways))
    match = matched(source, target)
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    assert difference(with_eps(source), with_eps(target), WORDS) < 1e-9


class OwnBert(nn.Module):
    """BERT around torch's own encoder: nothing says that ``ln`` is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos, self.seg = (nn.Embedding(n, 32) for n in (101, 64, 2))
        self.ln = nn.LayerNorm(32)
        layer = nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def forward(self, words):
        places = self.pos(torch.arange(words.shape[1]))
        return self.encoder(self.ln(self.tok(words) + places + self.seg(torch.zeros_like(words))))


def encoder_only():
    return transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False)


@pytest.mark.parametrize("ways", [(encoder_only, OwnBert), (OwnBert, encoder_only)])
def test_bert_and_torchs_encoder_with_the_order_in_which_both_run(ways):
    source, target = (randomised(make(), seed) for seed, make in enumerate(ways))
    assert len(unloaded(matched(source, target), target)) == 2
    calls = {"source_calls": calls_of(source, WORDS), "target_calls": calls_of(target, WORDS)}
    match = matched(source, target, source_model=describe(source), **calls)
    assert not unloaded(match, target)
    load(match, source.state_dict(), target)
    assert difference(with_eps(source), with_eps(target), WORDS) < 1e-9


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ("gate_proj", "a hint is 'source -> target'"),
        ("gate_pro -> w1", "no source name has the segments 'gate_pro'; did you mean gate_proj?"),
        ("gate_proj -> w9", "no target name has the segments 'w9'"),
        ("down_proj -> w1", "decides nothing"),
    ],
)
def test_a_hint_that_does_nothing_is_an_error(hint, message):
    with pytest.raises(SurgeryError, match=message.replace("?", r"\?")):
        matched(llama(), OwnLlama(), hints=[hint])
