"""Language models of transformers: projections of several heights, apart and fused."""

from __future__ import annotations

import pytest
import torch
import transformers
from structure_plans import rows_of, with_recipes

import surgery
from surgery.matching.recipes.recipe import View
from surgery.networks.describe import describe

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
ATTENTION = "model.layers.0.self_attn"
#: Rows of q, k and v where they are fused.
ROWS = {"q": (0, 32), "k": (32, 48), "v": (48, 64), "gate": (0, 48), "up": (48, 96)}


@pytest.fixture(scope="module")
def models():
    """Llama with q, k, v, gate and up apart, and Phi-3 that fuses them; two heads share a k."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for their rotary tables
    try:
        return (
            transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
            transformers.Phi3ForCausalLM(transformers.Phi3Config(**SIZES)),
        )
    finally:
        torch.set_default_dtype(before)


def made_of(source, target, pieces):
    """A plan by names, and what ``pieces`` makes of a target's name and the source's specs."""
    specs = describe(source).by_name

    def made(step):
        parts = pieces(step.target.name, specs)
        return rows_of(parts)(step) if parts else None

    return with_recipes(surgery.plan_transfer(source, target), made)


def joined(attention="qkv", mlp=("gate", "up")):
    def pieces(name, specs):
        fused, parts = next(
            ((f, p) for f, p in (("qkv", attention), ("gate_up", mlp)) if f"{f}_proj" in name),
            ("", ()),
        )
        found = [specs[name.replace(f"{fused}_proj", f"{part}_proj")] for part in parts]
        return tuple(map(View.of, found))

    return pieces


def apart(rows=ROWS):
    def pieces(name, specs):
        part = name.rpartition("_proj")[0].rpartition(".")[2]
        if part not in rows:
            return ()
        fused = "gate_up" if part in ("gate", "up") else "qkv"
        whole = View.of(specs[name.replace(f"{part}_proj", f"{fused}_proj")])
        return (whole.rows(*rows[part]),)

    return pieces


def test_both_ways(models):
    llama, phi = models
    for source, target, pieces in ((llama, phi, joined()), (phi, llama, apart())):
        proof = surgery.verify_transfer(source, target, made_of(source, target, pieces))
        assert proof.holds, proof
        assert len(proof.moved) == len(proof.movements) == 21


def acting(proof):
    return {move.source: move.acts_as for move in proof.movements if move.acts_as}


def test_gate_and_up_of_one_shape(models):
    plan = made_of(*models, joined(mlp=("up", "gate")))
    proof = surgery.verify_transfer(*models, plan)
    assert not proof.networks_differ
    for at in (0, 1):
        names = [f"model.layers.{at}.mlp.{part}_proj.weight" for part in ("gate", "up")]
        assert acting(proof)[names[0]] == (names[1],)
        assert acting(proof)[names[1]] == (names[0],)


def test_rows_of_several_heights_in_another_order(models):
    """k before q: k has half the rows, so all that comes after it is moved as well."""
    proof = surgery.verify_transfer(*models, made_of(*models, joined("kqv")))
    assert not proof.holds
    assert not proof.networks_differ
    q, k = (f"{ATTENTION}.{part}_proj.weight" for part in "qk")
    found = acting(proof)
    assert found[k] == (f"{q}[0:16]",)
    assert found[f"{q}[0:16]"] == (f"{q}[16:32]",)
    assert found[f"{q}[16:32]"] == (k,)
    assert f"{ATTENTION}.v_proj.weight" not in found


def test_rows_that_are_some_too_early(models):
    llama, phi = models
    proof = surgery.verify_transfer(phi, llama, made_of(phi, llama, apart({**ROWS, "k": (28, 44)})))
    assert not proof.holds
    assert not proof.networks_differ
    fused = f"{ATTENTION}.qkv_proj.weight"
    assert acting(proof)[f"{fused}[32:36]"] == (f"{fused}[36:40]",)
