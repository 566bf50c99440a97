import os
from zipfile import ZipFile

import pytest
import torch
import torchvision
from tiny_models import TiedLanguageModel, TinyNet, Wrapper, randomise, same_bits, snapshot
from torch import nn

import surgery
from surgery.checkpoint import pieces
from surgery.checkpoint.source import Reader
from surgery.checkpoint.weights import open_source
from surgery.errors import CheckpointError, SurgeryError, TransferRefused, ValueRefused
from surgery.transfers import plan_transfer, transfer


def test_filter_and_update():
    source, model = randomise(TinyNet(7), 1), randomise(TinyNet(5), 2)
    head = model.fc.weight.detach().clone()
    outcome = transfer(source, model)
    assert outcome.fresh == ("fc.weight", "fc.bias")
    assert outcome.unused == ("fc.weight", "fc.bias")
    assert outcome.resized == ()
    assert torch.equal(model.fc.weight, head)
    for name in outcome.loaded:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_parameters_stay_the_objects_that_an_optimizer_holds():
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = list(model.parameters())
    transfer(randomise(TinyNet()), model)
    assert all(one is other for one, other in zip(before, model.parameters(), strict=True))
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    weights = model.fc.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.fc.weight, weights)


@pytest.mark.parametrize(
    ("source", "settings", "error"),
    [
        pytest.param({"x": torch.zeros(2)}, {}, TransferRefused, id="zero-overlap"),
        pytest.param({"fc.bias": torch.ones(5)}, {}, TransferRefused, id="too-little"),
        pytest.param(TinyNet(7), {"strict": True}, TransferRefused, id="strict"),
        pytest.param(TinyNet(), {"mapping": {"none": "x"}}, SurgeryError, id="dead-line"),
        pytest.param({"a": 3, "b": torch.ones(2)}, {}, CheckpointError, id="no-state-dict"),
        pytest.param({1: torch.ones(2)}, {}, CheckpointError, id="names-that-are-no-text"),
        pytest.param("nowhere.pt", {}, CheckpointError, id="no-such-file"),
    ],
)
def test_a_refused_transfer_leaves_the_model_bit_for_bit(source, settings, error):
    model = randomise(TinyNet())
    before = snapshot(model)
    with pytest.raises(error):
        transfer(source, model, **settings)
    assert same_bits(before, snapshot(model))


def test_casts_are_done_and_what_they_break_is_counted():
    source, model = nn.Linear(2, 2), nn.Linear(2, 2).half()
    with torch.no_grad():
        source.weight.copy_(torch.tensor([[1e6, -1e6], [1.0, float("inf")]]))
    outcome = transfer(source, model)
    assert outcome.overflowed == (("weight", 2),)
    assert "the cast broke 2 values of weight" in str(outcome)
    assert model.weight.dtype == torch.float16
    before = snapshot(model)
    with pytest.raises(ValueRefused, match="casts break 2 values in 1 tensors"):
        transfer(source, model, strict=True)
    assert same_bits(before, snapshot(model))


def test_swapped_names_of_one_model():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    a, b = model["a"].weight.detach().clone(), model["b"].weight.detach().clone()
    transfer(model, model, mapping="a -> b\nb -> a")
    assert torch.equal(model["a"].weight, b)
    assert torch.equal(model["b"].weight, a)


class TestTies:
    def test_one_name_in_the_source_fills_both(self):
        source = dict(randomise(TiedLanguageModel()).state_dict())
        del source["embed.weight"]
        model = TiedLanguageModel()
        assert transfer(source, model).loaded_fraction == 1.0
        assert model.lm_head.weight is model.embed.weight
        assert torch.equal(model.embed.weight, source["lm_head.weight"])

    def test_two_values_for_one_parameter_are_refused(self):
        source = {k: v.clone() for k, v in TiedLanguageModel().state_dict().items()}
        source["lm_head.weight"] += 1
        model = TiedLanguageModel()
        before = snapshot(model)
        with pytest.raises(ValueRefused, match=r"embed\.weight and lm_head\.weight are one"):
            transfer(source, model)
        assert same_bits(before, snapshot(model))

    def test_an_untied_target_takes_both(self):
        source = randomise(TiedLanguageModel())
        model = TiedLanguageModel()
        model.lm_head.weight = nn.Parameter(torch.zeros(11, 4))
        transfer(source, model)
        assert torch.equal(model.lm_head.weight, source.embed.weight)
        assert model.lm_head.weight is not model.embed.weight


def test_a_target_on_the_meta_device_is_refused():
    with torch.device("meta"):
        model = TinyNet()
    with pytest.raises(TransferRefused, match="meta device, where a copy does nothing"):
        transfer(TinyNet(), model)


def test_a_plan_for_another_model_is_refused():
    plan = plan_transfer(TinyNet(), TinyNet())
    with pytest.raises(SurgeryError, match="when the plan was made"):
        plan.apply(TinyNet().half())
    with pytest.raises(SurgeryError, match="no parameter or buffer of this model"):
        plan.apply(nn.Linear(2, 2))


def test_weight_normalisation_in_both_spellings():
    new = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(3, 2))
    assert transfer(new, old).loaded_fraction == 1.0
    x = torch.rand(4, 3)
    assert torch.allclose(new(x), old(x), atol=0, rtol=1e-6)
    assert transfer(randomise(old), new).loaded_fraction == 1.0
    assert torch.allclose(new(x), old(x), atol=0, rtol=1e-6)


def test_a_lost_metadata_attribute_is_no_reason_to_fail():
    """torchvision's MNASNet raises in load_state_dict where `_metadata` is gone."""
    source = randomise(torchvision.models.mnasnet0_5())
    model = torchvision.models.mnasnet0_5()
    transfer(dict(source.state_dict()), model, strict=True)
    assert same_bits(snapshot(source), snapshot(model))


def test_wrapped_on_both_sides():
    source, model = randomise(Wrapper(Wrapper(TinyNet()))), Wrapper(TinyNet())
    assert transfer(source, model, strict=True).loaded_fraction == 1.0
    assert same_bits(snapshot(source.module.module), snapshot(model.module))


class TestContainersInMemory:
    def test_the_only_state_dict_is_taken_as_from_a_file(self):
        container = {"state_dict": TinyNet().state_dict(), "epoch": 3, "optimizer": {"state": {}}}
        assert transfer(container, TinyNet()).loaded_fraction == 1.0

    def test_a_name_that_begins_like_an_optimizers_is_taken_as_from_a_file(self):
        container = {"optimal_model": TinyNet().state_dict(), "optim_d": {"m": torch.ones(2)}}
        assert transfer(container, TinyNet()).loaded_fraction == 1

    def test_several_want_a_key(self):
        container = {"model": TinyNet().state_dict(), "ema": TinyNet().state_dict()}
        with pytest.raises(CheckpointError, match=r"holds 2 state dicts.*\n  model: "):
            transfer(container, TinyNet())
        assert transfer(container, TinyNet(), key="ema").loaded_fraction == 1.0
        with pytest.raises(
            CheckpointError, match="no state dict has the key emma; did you mean ema"
        ):
            transfer(container, TinyNet(), key="emma")

    def test_a_key_is_for_what_has_keys(self):
        with pytest.raises(SurgeryError, match="this one is open already"):
            transfer(open_source(TinyNet()), TinyNet(), key="model")


def test_what_is_no_source_or_no_model_is_named():
    with pytest.raises(SurgeryError, match="not a int"):
        transfer(3, TinyNet())
    with pytest.raises(SurgeryError, match=r"go into a torch.nn.Module, and str is none"):
        transfer(TinyNet(), "timm:resnet18")


def test_names_of_state_dicts_may_differ_from_names_of_modules():
    """Activation checkpointing takes its segment out of state dicts and leaves it in modules."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.Sequential(checkpoint_wrapper(nn.Linear(3, 3)), nn.Linear(3, 2))
    source = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    assert transfer(source, model, strict=True).loaded_fraction == 1.0
    assert torch.equal(model[0].weight, source[0].weight)


class TestNothingIsHalfDone:
    """What torch would refuse in the middle is refused before the first value is written."""

    def unchanged(self, source, model, error, message):
        before = snapshot(model)
        with pytest.raises(error, match=message):
            transfer(source, model, min_loaded=0)
        assert same_bits(before, snapshot(model))

    def test_an_expanded_buffer(self):
        model = nn.BatchNorm1d(4)
        model.running_mean = torch.zeros(1).expand(4)
        self.unchanged(nn.BatchNorm1d(4), model, TransferRefused, "running_mean is an expanded")

    def test_an_inference_tensor(self):
        with torch.inference_mode():
            model = nn.Linear(2, 2)
        self.unchanged(nn.Linear(2, 2), model, TransferRefused, "inference_mode")

    def test_a_source_without_values(self):
        source = {"weight": torch.ones(2, 2), "bias": torch.ones(2, device="meta")}
        outcome = transfer(source, nn.Linear(2, 2), fresh="bias")
        assert outcome.fresh == ("bias",)
        assert outcome.unused == ("bias",)


@pytest.mark.parametrize(
    ("values", "source", "target", "lost"),
    [
        pytest.param([1e6, 1.0], "float32", "float16", 1, id="overflow"),
        pytest.param([float("inf"), float("nan")], "float32", "float16", 0, id="not-finite-before"),
        pytest.param([1.0, 2.0], "float8_e4m3fn", "float32", 0, id="from-float8"),
        pytest.param([1e30, 1.0], "float32", "float8_e5m2", 1, id="to-float8"),
        pytest.param([-2.0, 2.0], "float32", "float8_e8m0fnu", 1, id="a-sign-is-lost"),
        pytest.param([complex(1, 1e300), 1], "complex128", "complex64", 1, id="complex"),
        pytest.param([1e300, 1.0], "float64", "complex128", 0, id="real-to-complex"),
        pytest.param([300, 1], "int64", "int8", 1, id="integers"),
    ],
)
def test_what_casts_break(values, source, target, lost):
    model = nn.Module()
    model.register_buffer("x", torch.zeros(2, dtype=getattr(torch, target)))
    tensor = torch.tensor(
        values, dtype=None if source.startswith("float8") else getattr(torch, source)
    ).to(getattr(torch, source))
    outcome = transfer({"x": tensor}, model)
    assert sum(count for _, count in outcome.overflowed) == lost
    expected = tensor.to(getattr(torch, target))
    assert same_bits({"x": model.x}, {"x": expected})


def test_an_outcome_is_short_where_it_is_not_printed():
    assert repr(transfer(TinyNet(), TinyNet())) == (
        "<TransferOutcome: 29 loaded, 0 fresh, 0 unused, loaded_fraction=1.0000>"
    )


def test_three_steps_through_a_file(tmp_path):
    source = randomise(TinyNet(), 1)
    surgery.save(source, tmp_path / "old.safetensors")
    model = TinyNet()
    outcome = surgery.transfer(tmp_path / "old.safetensors", model, strict=True)
    assert outcome.loaded_fraction == 1.0
    assert same_bits(snapshot(source), snapshot(model))


class TestFromFiles:
    """What a file may do to a live model while it is being written to."""

    @pytest.fixture
    def model(self):
        return randomise(TinyNet(), 1)

    @pytest.fixture
    def index(self, tmp_path):
        path = tmp_path / "m.safetensors"
        return surgery.save(randomise(TinyNet(), 2), path, max_shard_size=2000)

    def test_every_byte_is_read_once(self, model, index, monkeypatch):
        read = []
        read_into = Reader.read_into

        def noting(reader, start, memory):
            read.append((reader.source.path, start, memory.nbytes))
            read_into(reader, start, memory)

        opened = surgery.open_checkpoint(index)
        monkeypatch.setattr(Reader, "read_into", noting)
        transfer(opened, model, strict=True)
        assert sum(nbytes for *_, nbytes in read) == sum(spec.nbytes for spec in opened.specs)
        assert len(set(read)) == len(read)
        assert same_bits(snapshot(model), snapshot(randomise(TinyNet(), 2)))

    def test_one_tensor_for_two_parameters_is_read_once(self, tmp_path, monkeypatch):
        source = randomise(TiedLanguageModel(), 1)
        opened = surgery.open_checkpoint(surgery.save(source, tmp_path / "a.pt"))
        model = TiedLanguageModel()
        model.lm_head.weight = nn.Parameter(torch.zeros(11, 4))
        read, read_into = [], Reader.read_into
        monkeypatch.setattr(Reader, "read_into", lambda *a: read.append(a[1]) or read_into(*a))
        transfer(opened, model, strict=True)
        assert len(read) == 3
        assert torch.equal(model.lm_head.weight, source.embed.weight)
        assert model.lm_head.weight.data_ptr() != model.embed.weight.data_ptr()

    @pytest.mark.parametrize("fault", ["gone", "changed", "shorter"])
    def test_a_shard_that_is_another_by_now_leaves_the_model_alone(self, fault, model, index):
        opened = surgery.open_checkpoint(index)
        before = snapshot(model)
        shard = opened.place("fc.weight").region.source.path
        if fault == "gone":
            shard.unlink()
        else:
            data = shard.read_bytes()
            shard.write_bytes(data[:-1] if fault == "shorter" else data[::-1])
        with pytest.raises(CheckpointError, match=r"m-0000\d-of-0000\d") as caught:
            transfer(opened, model)
        assert "written" not in str(caught.value)
        assert same_bits(before, snapshot(model))

    @pytest.mark.parametrize("at", [1, 5, 29])
    def test_an_error_midway_says_how_far_it_came(self, at, model, index, monkeypatch):
        opened, calls, read_into = surgery.open_checkpoint(index), [], Reader.read_into

        def fail(reader, start, memory):
            calls.append(start)
            if len(calls) == at:
                raise CheckpointError("the disk is gone")
            read_into(reader, start, memory)

        monkeypatch.setattr(Reader, "read_into", fail)
        with pytest.raises(CheckpointError) as caught:
            transfer(opened, model)
        assert caught.value.message == (
            f"the disk is gone; {at} of the model's 29 tensors have been written to by then: "
            "build the model anew"
        )

    def test_a_source_that_changes_while_it_is_read(self, model, index, monkeypatch):
        opened, read_into = surgery.open_checkpoint(index), Reader.read_into

        def touching(reader, start, memory):
            read_into(reader, start, memory)
            os.utime(reader.source.path)

        monkeypatch.setattr(Reader, "read_into", touching)
        with pytest.raises(CheckpointError, match=r"changed since.*build the model anew"):
            transfer(opened, model)

    def test_a_damaged_deflated_member_shows_before_anything_is_written(self, model, tmp_path):
        torch.save(randomise(TinyNet(), 2).state_dict(), tmp_path / "a.pt")
        with ZipFile(tmp_path / "a.pt") as old, ZipFile(tmp_path / "b.pt", "w", 8) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        place = surgery.open_checkpoint(tmp_path / "b.pt").place("fc.weight")
        data = bytearray((tmp_path / "b.pt").read_bytes())
        data[place.region.start] = 0xFF  # no kind of block
        (tmp_path / "b.pt").write_bytes(data)
        before = snapshot(model)
        with pytest.raises(CheckpointError, match=r"b\.pt: the compressed member .* is damaged"):
            transfer(tmp_path / "b.pt", model)
        assert same_bits(before, snapshot(model))

    def test_a_compressed_storage_is_inflated_once_for_all_its_views(self, tmp_path, monkeypatch):
        flat = torch.rand(60)
        views = {str(i): flat[10 * i : 10 * i + 10] for i in range(6)}
        torch.save(views, tmp_path / "a.pt")
        with ZipFile(tmp_path / "a.pt") as old, ZipFile(tmp_path / "b.pt", "w", 8) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        opened, inflated = surgery.open_checkpoint(tmp_path / "b.pt"), []
        machine = pieces.zlib.decompressobj
        monkeypatch.setattr(
            pieces.zlib, "decompressobj", lambda *args: inflated.append(args) or machine(*args)
        )
        model = nn.ParameterList([nn.Parameter(torch.zeros(10)) for _ in views])
        transfer(opened, model)
        assert torch.equal(torch.cat(list(model)), flat)
        assert len(inflated) == 1

    @pytest.mark.parametrize("strict", [False, True])
    def test_casts_from_a_file(self, strict, tmp_path):
        path = surgery.save(
            {"weight": torch.full((2, 2), 1e6), "bias": torch.ones(2)}, tmp_path / "a.pt"
        )
        model = nn.Linear(2, 2).half()
        before = snapshot(model)
        if strict:
            with pytest.raises(ValueRefused, match="casts break 4 values in 1 tensors"):
                transfer(path, model, strict=True)
            assert same_bits(before, snapshot(model))
        else:
            assert transfer(path, model).overflowed == (("weight", 4),)

    def test_an_optimizer_made_before_goes_on(self, model, index):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        transfer(index, model, strict=True)
        model(torch.rand(2, 3, 8, 8)).sum().backward()
        before = snapshot(model)
        optimizer.step()
        assert not torch.equal(before["fc.weight"], model.fc.weight)

    def test_channels_last(self, index):
        model = TinyNet().to(memory_format=torch.channels_last)
        transfer(index, model, strict=True)
        assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(model.stem.weight, randomise(TinyNet(), 2).stem.weight)


def test_tied_parameters_without_elements():
    model = nn.Module()
    model.a = model.b = nn.Parameter(torch.zeros(0, 2))
    model.c = nn.Parameter(torch.zeros(2))
    source = {"a": torch.zeros(0, 2), "b": torch.zeros(0, 2), "c": torch.ones(2)}
    assert transfer(source, model).loaded_fraction == 1.0
