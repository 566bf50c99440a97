"""Two implementations of one network, through the public names: from a file to equal outputs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from attention_twins import Fused, Split, Straight, Turned
from tiny_models import TinyNet, randomise, same_bits, snapshot
from torch import nn

import surgery
from surgery.checkpoint.weights import open_source
from surgery.errors import SurgeryError, TransferRefused
from surgery.transfers import TransferRequest
from surgery.transfers.planning import plan, plan_between
from surgery.transfers.target import open_target

FACTORIES = "from attention_twins import Fused, Split\n"
WAYS = [(Fused, Split), (Split, Fused)]


def apart(one: nn.Module, other: nn.Module) -> float:
    """The largest relative difference of the outputs in float64."""
    pictures = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        first, second = one.double().eval()(pictures), other.double().eval()(pictures)
    return float((first - second).abs().max() / first.abs().max())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "a folder"])
@pytest.mark.parametrize(("source_kind", "target_kind"), WAYS)
def test_from_a_file_to_equal_outputs(tmp_path, suffix, source_kind, target_kind):
    source, target = randomise(source_kind(), 1), randomise(target_kind(), 2)
    path = tmp_path / f"old{suffix}"
    if suffix == "a folder":
        path = tmp_path / "old"
        path.mkdir()
        whole = saved(source, tmp_path / "whole.safetensors")
        surgery.convert(whole, path / "model.safetensors", max_shard_size=2000)
    else:
        surgery.save(source, path)
    outcome = surgery.transfer(path, target, match="structure", strict=True)
    assert not outcome.fresh
    assert not outcome.unused
    assert outcome.loaded_fraction == 1
    assert apart(source, target) < 1e-12


def saved(model, path):
    surgery.save(model, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(("source_kind", "target_kind"), WAYS)
def test_into_a_file_as_into_a_model(tmp_path, suffix, source_kind, target_kind):
    source, target = randomise(source_kind(), 1), randomise(target_kind(), 2)
    old = surgery.open_checkpoint(saved(source, tmp_path / "old.safetensors"))
    (tmp_path / "factory.py").write_text(FACTORIES)
    architecture = f"{tmp_path / 'factory.py'}:{target_kind.__name__}"
    job = plan(TransferRequest(source=old, target=architecture, match="structure", strict=True))
    outcome = job.write(tmp_path / f"new.{suffix}")
    surgery.transfer(old, target, match="structure")
    written = surgery.open_checkpoint(tmp_path / f"new.{suffix}").state_dict()
    assert same_bits(dict(written), target.state_dict())
    assert surgery.open_checkpoint(outcome.files[-1]).specs


@pytest.mark.parametrize(("source_kind", "target_kind"), WAYS)
def test_from_a_module_and_from_a_state_dict(source_kind, target_kind):
    source = randomise(source_kind(), 1)
    before = snapshot(source)
    for held in (source, source.state_dict()):
        target = randomise(target_kind(), 2)
        surgery.transfer(held, target, match="structure", strict=True)
        assert apart(randomise(source_kind(), 1), target) < 1e-12
    assert same_bits(before, snapshot(source))


def test_what_is_written_shares_no_memory_with_the_source():
    source, target = randomise(Fused(), 1), Split()
    before = snapshot(source)
    surgery.transfer(source, target, match="structure")
    with torch.no_grad():
        for tensor in target.state_dict().values():
            tensor.zero_()
    assert same_bits(before, snapshot(source))


def test_casts_are_counted_as_ever():
    source = randomise(Split().half(), 1)
    with torch.no_grad():
        source.encoder.layer[0].attention.key.weight[0, 0] = 65000
    target = Fused().to(torch.float8_e5m2)
    plan = surgery.plan_transfer(source, target, match="structure")
    assert plan.casts == {"float16 -> float8_e5m2": len(plan.steps)}
    outcome = surgery.transfer(source, target, match="structure")
    assert outcome.overflowed == (("blocks.0.attn.qkv.weight", 1),)


def test_rows_of_several_dtypes_are_not_joined():
    state = randomise(Split(), 1).state_dict()
    state["encoder.layer.1.attention.key.weight"] = state[
        "encoder.layer.1.attention.key.weight"
    ].half()
    plan = surgery.plan_transfer(state, Fused(), match="structure")
    step = plan.by_target["blocks.1.attn.qkv.weight"]
    assert step.state == "fresh"
    assert step.reason == "its 3 sources have different dtypes: float32, float16"


def test_a_plan_is_json_values():
    plan = surgery.plan_transfer(Split(num_classes=4), Fused(), match="structure")
    assert {step.state for step in plan.steps} == {"loaded", "fresh"}
    data = plan.to_dict()
    assert json.loads(json.dumps(data)) == data


def test_every_step_says_why():
    plan = surgery.plan_transfer(Split(), Fused(), match="structure")
    assert all(step.evidence.because for step in plan.steps)
    (step,) = plan.select("blocks.0.attn.qkv.weight")
    assert [source.name for source in step.sources] == [
        f"encoder.layer.0.attention.{name}.weight" for name in ("query", "key", "value")
    ]
    assert step.reason == "transpose, concatenate rows"


def test_a_network_into_itself_is_what_names_say():
    for model in (Fused(), Split(), TinyNet()):
        by_names = surgery.plan_transfer(model, model)
        by_structure = surgery.plan_transfer(model, model, match="structure")
        pairs = [(s.target, s.source) for s in by_names.steps]
        assert [(s.target, s.source) for s in by_structure.steps] == pairs


def test_the_mapping_comes_first():
    mapping = {"embeddings": "stem", "encoder.layer.*": "encoder.stage*"}
    source, target = randomise(Split(), 1), Fused()
    outcome = surgery.transfer(source, target, match="structure", mapping=mapping)
    (step,) = outcome.plan.select("blocks.1.norm1.bias")
    assert step.source.name == "encoder.layer.1.layernorm_before.bias"
    assert "renamed by line 2" in step.reason
    assert apart(source, target) < 1e-12


class Indexed(nn.Module):
    """A layer beside an index, a mask and a table of whole numbers."""

    def __init__(self, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        for name, value in buffers.items():
            self.register_buffer(name, value)


def test_what_constructors_compute_is_left_to_the_target():
    source = Indexed(position_ids=torch.arange(4), attn_mask=torch.ones(2, 2))
    target = Indexed(position_ids=torch.zeros(4).long(), steps=torch.zeros(4).long())
    outcome = surgery.transfer(source, target, match="structure", fresh="steps")
    assert outcome.plan.by_target["position_ids"].recomputed
    assert not outcome.plan.by_target["steps"].recomputed
    assert {unused.source.name for unused in outcome.plan.unused if unused.expected} == {
        "position_ids",
        "attn_mask",
    }


def test_whole_numbers_of_one_name_are_loaded():
    source, target = Indexed(steps=torch.arange(4)), Indexed(steps=torch.zeros(4).long())
    surgery.transfer(source, target, match="structure", strict=True)
    assert target.steps.tolist() == [0, 1, 2, 3]


# What stays open -----------------------------------------------------------------------------


class Open(nn.Module):
    """Two layers of one shape under names that say nothing, and three that are told."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))
        self.first, self.middle = nn.Linear(3, 4), nn.Linear(4, 7)
        self.last = nn.Linear(7, 9)


OLD, NEW = ("apple", "pear"), ("stone", "river")


def test_what_stays_open_is_said_group_by_group():
    plan = surgery.plan_transfer(Open(*OLD), Open(*NEW), match="structure")
    (group,) = plan.open
    assert set(group.targets) == {f"{n}.{leaf}" for n in NEW for leaf in ("weight", "bias")}
    assert set(group.sources) == {f"{n}.{leaf}" for n in OLD for leaf in ("weight", "bias")}
    assert len(plan.names("loaded")) == 6
    assert {*plan.names("open")} == {*group.targets}
    text = str(plan)
    assert "left open" in text
    assert "where A is apple or pear, and B is river or stone" in text
    with pytest.raises(TransferRefused, match="strict: 8 tensors differ"):
        surgery.transfer(
            Open(*OLD), Open(*NEW), match="structure", strict=True, keep_open=True, fresh=()
        )


def test_what_stays_open_is_refused_unless_it_is_accepted():
    source, target = randomise(Open(*OLD), 1), randomise(Open(*NEW), 2)
    before = snapshot(target)
    with pytest.raises(TransferRefused, match="1 group of 4 tensors stay open") as refused:
        surgery.transfer(source, target, match="structure")
    assert any("--hint" in line for line in refused.value.details)
    assert same_bits(before, snapshot(target))
    outcome = surgery.transfer(source, target, match="structure", keep_open=True)
    assert len(outcome.loaded) == 6
    assert torch.equal(target.river.weight, before["river.weight"])


def test_too_much_left_open_is_refused_with_the_way_out():
    with pytest.raises(TransferRefused) as refused:
        surgery.transfer(Open(*OLD), Open(*NEW), match="structure", min_loaded=0.9)
    assert any("1 group of 4 tensors stay open" in line for line in refused.value.details)
    assert any("--hint" in line for line in refused.value.details)


@pytest.mark.parametrize("hints", [["apple -> river"], {"apple": "river"}, ("pear->stone",)])
def test_a_hint_settles_it(hints):
    source, target = randomise(Open(*OLD), 1), Open(*NEW)
    outcome = surgery.transfer(source, target, match="structure", hints=hints, strict=True)
    assert torch.equal(target.river.weight, source.apple.weight)
    assert torch.equal(target.stone.weight, source.pear.weight)
    assert any("hint" in why for step in outcome.plan.steps for why in step.evidence.because)


MISTAKES = [
    (["aple -> river"], "structure", "did you mean"),
    (["last -> first"], "structure", "decides nothing"),
    (["apple river"], "structure", "a hint is 'source -> target'"),
    (["apple -> river"], "names", "hints are for what structure leaves open"),
]


@pytest.mark.parametrize(("hints", "match", "message"), MISTAKES)
def test_a_hint_that_is_wrong_is_an_error(hints, match, message):
    target = Open(*NEW)
    before = snapshot(target)
    with pytest.raises(SurgeryError, match=message):
        surgery.transfer(Open(*OLD), target, match=match, hints=hints)
    assert same_bits(before, snapshot(target))


def test_two_different_networks_are_refused():
    with pytest.raises(TransferRefused) as refused:
        surgery.transfer(TinyNet(), Fused(), match="structure")
    assert any("not taken for one network" in line for line in refused.value.details)


def test_names_that_fail_point_to_structure():
    new = {"stem": "first", "bn": "scale", "blocks": "layers", "fc": "out"}
    state = {
        ".".join(new.get(segment, segment) for segment in name.split(".")): value
        for name, value in TinyNet().state_dict().items()
    }
    with pytest.raises(TransferRefused) as refused:
        surgery.transfer(state, TinyNet())
    assert any("--match structure" in line for line in refused.value.details)


# Other sizes ---------------------------------------------------------------------------------


def test_another_head_is_named_and_stays_fresh():
    plan = surgery.plan_transfer(Split(num_classes=7), Fused(), match="structure")
    step = plan.by_target["head.weight"]
    assert step.reason == "shape differs: source classifier.weight (7, 6, 1, 1), target (3, 6)"
    assert {unused.source.name: unused.reason for unused in plan.unused} == {
        "classifier.weight": "does not fit its target",
        "classifier.bias": "does not fit its target",
    }


class OneChannel(Split):
    """The split twin for grey pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings.patches.projection = nn.Conv2d(1, 6, 4, 4)


def test_what_has_another_size_can_be_resized():
    source, target = randomise(Fused().double(), 1), OneChannel().double()
    kept = surgery.plan_transfer(source, target, match="structure")
    assert kept.by_target["embeddings.patches.projection.weight"].state == "fresh"
    outcome = surgery.transfer(source, target, match="structure", resize="auto", min_loaded=1)
    assert outcome.resized == ("embeddings.patches.projection.weight",)
    grey = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        one, three = (
            target.double().eval()(grey),
            source.double().eval()(grey.expand(-1, 3, -1, -1)),
        )
    torch.testing.assert_close(one, three, rtol=0, atol=1e-12)


# Code as evidence ----------------------------------------------------------------------------


def test_the_code_of_the_source_tells_what_its_names_do_not():
    source, target = randomise(Turned(), 1), Straight()
    from_file = surgery.plan_transfer(source.state_dict(), target, match="structure")
    assert from_file.open
    outcome = surgery.transfer(source, target, match="structure", strict=True)
    assert {s.target.name for s in outcome.plan.steps if s.recipe and not s.recipe.is_copy} == {
        "first.weight",
        "wide.weight",
    }
    rows = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(source.double()(rows), target.double()(rows))


def test_the_architecture_that_a_file_was_saved_from_tells_as_much(tmp_path):
    (tmp_path / "factory.py").write_text("from attention_twins import Straight, Turned\n")
    old = surgery.open_checkpoint(saved(randomise(Turned(), 1), tmp_path / "old.safetensors"))
    new, was = (f"{tmp_path}/factory.py:{n}" for n in ("Straight", "Turned"))
    request = TransferRequest(source=old, target=new, match="structure")
    assert plan(request).open
    told = plan(replace(request, source_arch=was))
    assert told.loaded_fraction == 1
    assert not told.open


def test_order_is_asked_for_only_where_something_goes_by_it():
    asked = []
    request = TransferRequest(source=Split().state_dict(), target=Fused(), match="structure")
    target = replace(open_target(request), find_order=lambda: asked.append(1) or ())
    plan_between(request, open_source(request.source), target)
    assert not asked


# Ties, hints and lines together --------------------------------------------------------------


class OldTied(nn.Module):
    """A language model whose output matrix is its embedding, with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(11, 4)
        self.dense = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.decoder = nn.Linear(4, 11)
        self.decoder.weight = self.embeddings.word_embeddings.weight


class NewTied(nn.Module):
    """The same under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(11, 4)
        self.fc = nn.Linear(4, 4)
        self.ln = nn.LayerNorm(4)
        self.lm_out = nn.Linear(4, 11)
        self.lm_out.weight = self.tok.weight


@pytest.mark.parametrize("held_once", [False, True])
def test_a_tied_embedding_is_found_beside_the_bias_of_its_head(held_once):
    source, target = randomise(OldTied(), 1), randomise(NewTied(), 2)
    state = dict(source.state_dict())
    if held_once:
        del state["decoder.weight"]
    surgery.transfer(state, target, match="structure", strict=True)
    assert torch.equal(target.tok.weight, source.decoder.weight)
    assert torch.equal(target.lm_out.bias, source.decoder.bias)
    assert target.lm_out.weight is target.tok.weight


def test_a_line_that_names_a_target_needs_no_structure():
    mapping = {"apple": "river"}
    source, target = randomise(Open(*OLD), 1), Open(*NEW)
    outcome = surgery.transfer(source, target, match="structure", mapping=mapping, strict=True)
    assert torch.equal(target.river.weight, source.apple.weight)
    assert torch.equal(target.stone.weight, source.pear.weight)
    (step, _) = outcome.plan.select("river")
    assert step.reason == "renamed by line 1"


@pytest.mark.parametrize(
    "hints",
    [
        ["apple -> river", "pear -> stone"],  # both, though one would do
        "apple -> river",
        ["apple.weight -> river.weight"],
    ],
)
def test_hints_as_people_write_them(hints):
    source, target = randomise(Open(*OLD), 1), Open(*NEW)
    surgery.transfer(source, target, match="structure", hints=hints, strict=True)
    assert torch.equal(target.river.weight, source.apple.weight)


def test_a_head_of_any_name_meets_its_counterpart():
    class Other(Split):
        def __init__(self) -> None:
            super().__init__()
            self.cls, self.classifier = nn.Linear(6, 7), None

    plan = surgery.plan_transfer(Other().state_dict(), Fused(), match="structure")
    assert plan.by_target["head.weight"].reason == (
        "shape differs: source cls.weight (7, 6), target (3, 6)"
    )


def test_an_architecture_that_shares_nothing_with_the_file_is_refused(tmp_path):
    (tmp_path / "factory.py").write_text(FACTORIES)
    old = surgery.open_checkpoint(saved(Split(), tmp_path / "old.safetensors"))
    fused, _ = (f"{tmp_path}/factory.py:{n}" for n in ("Fused", "Split"))
    with pytest.raises(SurgeryError, match="not one tensor has a name and a shape of it"):
        plan(TransferRequest(source=old, target=fused, match="structure", source_arch=fused))


class Untied(NewTied):
    """Embedding and output matrix apart."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_out = nn.Linear(4, 11)


def test_one_tensor_of_two_names_feeds_two_tensors():
    source, target = randomise(OldTied(), 1), randomise(Untied(), 2)
    surgery.transfer(source.state_dict(), target, match="structure", strict=True)
    for tensor in (target.tok.weight, target.lm_out.weight):
        assert torch.equal(tensor, source.decoder.weight)


def test_a_tied_embedding_is_resized_under_all_its_names():
    class Longer(NewTied):
        def __init__(self) -> None:
            super().__init__()
            self.tok, self.lm_out = nn.Embedding(13, 4), nn.Linear(4, 13)
            self.lm_out.weight = self.tok.weight

    source, target = randomise(OldTied(), 1), randomise(Longer(), 2)
    outcome = surgery.transfer(
        source, target, match="structure", resize="auto", fresh="lm_out.bias"
    )
    assert {"tok.weight", "lm_out.weight"} <= {*outcome.resized}
    assert torch.equal(target.lm_out.weight[:11], source.decoder.weight)


class OpenBlocks(nn.Module):
    """Blocks of two layers that nothing tells apart, and one that says which block it is in."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(Open(*names) for _ in range(3))


@pytest.mark.parametrize("hint", ["apple -> river", "blocks.1.apple -> blocks.1.river"])
def test_a_hint_for_one_block_is_one_for_all_alike(hint):
    source, target = randomise(OpenBlocks(*OLD), 1), OpenBlocks(*NEW)
    surgery.transfer(source, target, match="structure", hints=hint, strict=True)
    for one, other in zip(source.blocks, target.blocks, strict=True):
        assert torch.equal(other.river.weight, one.apple.weight)
        assert torch.equal(other.stone.weight, one.pear.weight)


def test_fused_rows_are_no_change_of_width():
    kept = surgery.plan_transfer(Split(num_classes=7), Fused(), match="structure")
    resized = surgery.plan_transfer(Split(num_classes=7), Fused(), match="structure", resize="auto")
    assert resized.names("loaded") == kept.names("loaded")
    assert not resized.names("resized")  # other classes are not the same classes


def test_names_ask_nothing_of_the_code(monkeypatch):
    """A module as the source would be described for nothing."""
    asked = []
    monkeypatch.setattr("surgery.transfers.planning.Code", lambda *_: asked.append(1))
    surgery.transfer(Fused(), Fused(), strict=True)
    assert not asked
