import json
import math
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import TiedLanguageModel, TinyNet, Wrapper, same_bits, snapshot
from torch import nn

import surgery
from surgery.errors import CheckpointError, StateRefused, SurgeryError
from surgery.training.plain import packed, unpacked
from surgery.training.training_file import read_training_file

BATCHES = torch.randn(18, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KINDS = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adamw": {},
    "rmsprop": {"momentum": 0.5, "centered": True},
    "nadam": {},
    "timm:lamb": {},
}
RULES = """
base lr=0.01
stem, bn freeze
blocks.0 unfreeze@3
blocks.1 unfreeze@1
fc lr*=10
:1d wd=0
schedule {}
"""
COSINE = RULES.format("cosine by=epoch floor=0.01")
ONE_CYCLE = RULES.format("onecycle by=step")


class Net(TinyNet):
    """With dropout: a run that goes on needs its random state."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(x), 0.3, self.training)


class Run:
    """Six epochs of three steps, which can be left after any step and taken up by another Run."""

    def __init__(self, name: str = "adamw", rules: str = COSINE, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = Net()
        self.rules = rules
        self.optimizer = surgery.build_optimizer(
            self.model, rules, optimizer=name, **KINDS.get(name, {})
        )
        self.stages = surgery.build_stages(self.model, rules, optimizer=self.optimizer)
        self.schedule = surgery.build_schedule(self.optimizer, rules, epochs=6, steps_per_epoch=3)
        self.at = 0

    def train(self, until: int) -> "Run":
        while self.at < until:
            epoch, step = divmod(self.at, 3)
            if step == 0:
                self.stages.start_epoch(epoch)
            self.model.train()
            self.optimizer.zero_grad()
            self.model(BATCHES[self.at]).square().mean().backward()
            self.optimizer.step()
            self.at += 1
            if self.schedule.by == "step" or step == 2:
                self.schedule.step()
        return self

    @property
    def parts(self):
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "stages": self.stages,
        }

    def save(self, path):
        return surgery.save_training(path, **self.parts, rules=self.rules, step=self.at)

    def resume(self, path) -> "Run":
        self.at = surgery.resume_training(path, **self.parts).step
        return self

    def everything(self):
        """All that may not differ, as plain values and bytes."""
        groups = [
            {k: v for k, v in group.items() if k != "params"}
            for group in self.optimizer.param_groups
        ]
        return {
            "states": {
                name: bits(self.optimizer.state[p])
                for name, p in self.model.named_parameters()
                if p in self.optimizer.state
            },
            "groups": groups,
            "schedule": self.schedule.state_dict(),
            "stages": self.stages.state_dict(),
            "grads": [p.requires_grad for p in self.model.parameters()],
            "model": bits(snapshot(self.model)),
            "random": torch.get_rng_state().tolist(),
        }


def bits(values):
    """Tensors to dtype and bytes: NaNs compare, and so do signs of zero."""
    return {
        key: (str(v.dtype), v.contiguous().reshape(-1).view(torch.uint8).tolist())
        if isinstance(v, torch.Tensor)
        else (type(v), v)
        for key, v in values.items()
    }


class TestGoesOn:
    # Before, at and after the unfreezing of epoch 3, in mid-epoch, before the first step.
    @pytest.mark.parametrize("at", [0, 4, 6, 9, 10, 12])
    @pytest.mark.parametrize(
        ("name", "rules"),
        [
            ("sgd", COSINE),
            ("sgd", ONE_CYCLE),
            ("adamw", COSINE),
            ("adamw", ONE_CYCLE),
            ("rmsprop", COSINE),
        ],
    )
    def test_as_if_it_had_never_stopped(self, name, rules, at, tmp_path):
        path = tmp_path / "run.safetensors"
        whole = Run(name, rules).train(18)
        expected = whole.everything()
        Run(name, rules).train(at).save(path)
        resumed = Run(name, rules, seed=1).resume(path)
        assert resumed.at == at
        assert resumed.train(18).everything() == expected

    @pytest.mark.parametrize("name", ["nadam", "timm:lamb"])
    def test_other_optimizers(self, name, tmp_path):
        path = Run(name).train(7).save(tmp_path / "run.safetensors")
        expected = Run(name).train(12).everything()
        assert Run(name, seed=1).resume(path).train(12).everything() == expected

    def test_what_is_restored_is_what_was_saved(self, tmp_path):
        run = Run().train(10)
        expected = run.everything()
        path = run.save(tmp_path / "run.safetensors")
        assert run.everything() == expected
        assert Run(seed=1).resume(path).everything() == expected

    def test_saving_before_the_first_step_changes_nothing(self, tmp_path):
        one, other = Run(), Run()
        torch.manual_seed(5)
        one.train(1)
        torch.manual_seed(5)
        other.save(tmp_path / "run.safetensors")
        assert not other.optimizer.state
        assert other.train(1).everything() == one.everything()

    def test_an_optimizer_that_makes_its_own_rates(self, tmp_path):
        model, rules = TinyNet(), "base optimizer=timm:adafactor"
        saved = surgery.build_optimizer(model, rules)
        path = surgery.save_training(tmp_path / "run.safetensors", model=model, optimizer=saved)
        optimizer = surgery.build_optimizer(model, rules)
        surgery.resume_training(path, model=model, optimizer=optimizer)
        assert {group["lr"] for group in optimizer.param_groups} == {None}

    @pytest.mark.parametrize("wrapped", [True, False])
    def test_wrapped_or_not(self, wrapped, tmp_path):
        path, (one, other) = tmp_path / "run.safetensors", (TinyNet(), TinyNet())
        saved = Wrapper(one) if wrapped else one
        target = other if wrapped else torch.compile(other, backend="eager")
        for net in (saved, target):
            optimizer = surgery.build_optimizer(net, "base lr=1\nfc lr=2")
            net(BATCHES[0]).sum().backward()
            optimizer.step()
            if net is saved:
                surgery.save_training(path, model=net, optimizer=optimizer)
        surgery.resume_training(path, model=target, optimizer=optimizer)
        assert same_bits(snapshot(one), snapshot(other))

    def test_lbfgs_and_its_history(self, tmp_path):
        def run(until, at=0, path=None):
            torch.manual_seed(at)
            model = nn.Linear(3, 1)
            optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

            def closure():
                optimizer.zero_grad()
                loss = (model(BATCHES[0, :, :, 0, 0]) - 1).square().mean()
                loss.backward()
                return loss

            if path and at:
                surgery.resume_training(path, model=model, optimizer=optimizer)
            for _ in range(at, until):
                optimizer.step(closure)
            if path and not at:
                surgery.save_training(path, model=model, optimizer=optimizer)
            return snapshot(model)

        path = tmp_path / "run.safetensors"
        run(2, 0, path)
        assert same_bits(run(4), run(4, 2, path))

    def test_torchs_own_schedulers(self, tmp_path):
        model = TinyNet()
        path = tmp_path / "run.safetensors"

        def parts():
            optimizer = torch.optim.SGD(model.parameters(), lr=1)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
            return {"model": model, "optimizer": optimizer, "schedule": schedule}

        saved = parts()
        saved["optimizer"].step()
        saved["schedule"].step()
        surgery.save_training(path, **saved)
        resumed = parts()
        surgery.resume_training(path, **resumed)
        for part in (saved, resumed):
            for _ in range(2):
                part["optimizer"].step()
                part["schedule"].step()
        assert resumed["schedule"].get_last_lr() == saved["schedule"].get_last_lr() == [0.1**2]
        assert resumed["optimizer"].param_groups[0]["lr"] == 0.1**2


class TestFile:
    def test_words_of_whoever_saved_come_back(self, tmp_path):
        run = Run().train(3)
        path = tmp_path / "run.safetensors"
        extra = {"best": 0.5, "seen": (1, None, True), "scale": torch.tensor([2.0]), 7: math.inf}
        surgery.save_training(path, **run.parts, rules=run.rules, epoch=1, extra=extra)
        state = surgery.resume_training(path, **run.parts)
        assert (state.epoch, state.step, state.rules) == (1, None, COSINE)
        assert state.extra.pop("scale").tolist() == [2.0]
        assert state.extra == {"best": 0.5, "seen": (1, None, True), 7: math.inf}

    def test_rules_by_path(self, tmp_path):
        rules = tmp_path / "rules.txt"
        rules.write_text(COSINE)
        run = Run()
        path = surgery.save_training(
            tmp_path / "run.safetensors", model=run.model, optimizer=run.optimizer, rules=rules
        )
        assert read_training_file(path).rules == COSINE

    def test_any_reader_sees_the_tensors(self, tmp_path):
        run = Run().train(1)
        path = run.save(tmp_path / "run.safetensors")
        tensors = load_file(path)
        assert torch.equal(tensors["model.fc.weight"], run.model.fc.weight)
        state = run.optimizer.state[run.model.fc.weight]
        assert torch.equal(tensors["optimizer.fc.weight.exp_avg"], state["exp_avg"])
        assert tensors["random.cpu"].dtype == torch.uint8

    def test_a_changed_course_from_a_file(self, tmp_path):
        run = Run().train(9)
        path = run.save(tmp_path / "run.safetensors")
        model = Net(num_classes=9)
        new = surgery.build_optimizer(model, "base lr=1\n:all name=all")
        outcome = surgery.load_optimizer_state(new, path)
        assert outcome.reshaped == ("fc.weight", "fc.bias")
        # What waits for epoch 3 had no state yet; what is frozen was never in the optimizer.
        assert "blocks.0.0.weight" in outcome.fresh
        assert "stem.weight" in outcome.fresh
        moved = new.state[model.blocks[2][0].weight]["exp_avg"]
        assert torch.equal(moved, run.optimizer.state[run.model.blocks[2][0].weight]["exp_avg"])
        assert new.param_groups[0]["lr"] == 1

    def test_tied_low_precision_and_memory_format(self, tmp_path):
        path = tmp_path / "run.safetensors"
        models = [TiedLanguageModel().bfloat16(), TinyNet().to(memory_format=torch.channels_last)]
        for model, batch in zip(models, (torch.arange(4), BATCHES[0]), strict=True):
            optimizer = surgery.build_optimizer(model, "base optimizer=adamw lr=0.1")
            model(batch).float().sum().backward()
            optimizer.step()
            surgery.save_training(path, model=model, optimizer=optimizer)
            other = deepcopy(model)
            new = surgery.build_optimizer(other, "base optimizer=adamw lr=0.1")
            surgery.resume_training(path, model=other, optimizer=new)
            assert same_bits(snapshot(model), snapshot(other))
            for one, two in zip(model.parameters(), other.parameters(), strict=True):
                assert bits(optimizer.state[one]) == bits(new.state[two])
                assert (
                    new.state[two]["exp_avg"].stride() == optimizer.state[one]["exp_avg"].stride()
                )

    def test_what_modules_keep_beside_their_tensors(self, tmp_path):
        class Counting(nn.Linear):
            count = 0

            def get_extra_state(self):
                return {"count": self.count}

            def set_extra_state(self, state):
                self.count = state["count"]

        model, other = Counting(2, 2), Counting(2, 2)
        model.count = 5
        path = tmp_path / "run.safetensors"
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        surgery.save_training(path, model=model, optimizer=optimizer)
        optimizer = torch.optim.SGD(other.parameters(), 0.1)
        surgery.resume_training(path, model=other, optimizer=optimizer)
        assert other.count == 5

    @pytest.mark.parametrize(
        ("extra", "place"), [({"a": [object()]}, "extra.a.0"), (lambda: 1, "extra: ")]
    )
    def test_what_is_no_plain_value_is_refused_and_the_old_file_stays(self, extra, place, tmp_path):
        run = Run()
        path = run.save(tmp_path / "run.safetensors")
        before = path.read_bytes()
        with pytest.raises(StateRefused, match=place) as caught:
            surgery.save_training(path, **run.parts, extra=extra)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]

    def test_only_safetensors(self, tmp_path):
        with pytest.raises(
            CheckpointError, match=r"run\.pt: a training file ends in \.safetensors"
        ):
            Run().save(tmp_path / "run.pt")
        assert not list(tmp_path.iterdir())

    def test_an_optimizer_from_before_the_head_was_replaced(self, tmp_path):
        run = Run()
        surgery.replace_head(run.model, 7)
        with pytest.raises(StateRefused, match="2 of the optimizer's parameters are none of"):
            run.save(tmp_path / "run.safetensors")


class TestRefusals:
    def refused(self, run: Run, path, message: str, **parts: object) -> None:
        before = run.everything()
        with pytest.raises(SurgeryError, match=message) as caught:
            surgery.resume_training(path, **{**run.parts, **parts})
        assert "\n" not in str(caught.value)
        assert run.everything() == before

    @pytest.fixture
    def path(self, tmp_path):
        return Run().train(10).save(tmp_path / "run.safetensors")

    def test_another_model(self, path):
        run = Run()
        for model, message in [
            (Net(num_classes=9), r"fc\.weight is float32 \(5, 8\) there and float32 \(9, 8\) here"),
            (Net().double(), r"stem\.weight is float32 .* there and float64 .* here"),
            (
                nn.Linear(2, 2),
                r"weight is missing there and float32 \(2, 2\) here \(30 more differ\)",
            ),
        ]:
            before = snapshot(model)
            self.refused(run, path, f"the file is another model's: {message}", model=model)
            assert same_bits(snapshot(model), before)

    def test_another_optimizer(self, path):
        self.refused(Run("sgd"), path, "the optimizer is .*AdamW there and .*SGD here")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ((":1d wd=0", "blocks.2 wd=0"), "blocks.0.0.bias is number 0 of group 1 there and"),
            (
                ("stem, bn freeze", "bn freeze"),
                "stem.weight is in no group there and number 0 of group 0 here",
            ),
            (("@3", "@4"), "other stages: blocks.0.0.weight is trained from epoch 3 there"),
            (("floor=0.01", "floor=0.1"), "floor=0.1 .*and the saved state is of .*floor=0.01"),
        ],
    )
    def test_other_rules(self, change, message, path):
        self.refused(Run(rules=COSINE.replace(*change)), path, message)

    @pytest.mark.parametrize("part", ["schedule", "stages"])
    def test_parts_that_one_side_lacks(self, part, path, tmp_path):
        run = Run()
        self.refused(run, path, f"{part}= is given there and missing here", **{part: None})
        without = {**run.parts, part: None}
        other = surgery.save_training(tmp_path / "other.safetensors", **without)
        self.refused(run, other, f"{part}= is missing there and given here")

    def test_weights_alone(self, tmp_path):
        surgery.save(Net(), tmp_path / "w.safetensors")
        self.refused(Run(), tmp_path / "w.safetensors", "not written by save_training")
        self.refused(Run(), tmp_path / "none.safetensors", "no such file")

    def rewritten(self, path, change):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        record = json.loads(metadata["surgery.training"])
        metadata["surgery.training"] = json.dumps(change(record))
        save_file(load_file(path), path, metadata=metadata)
        return path

    @pytest.mark.parametrize(
        "change",
        [
            lambda record: [],
            lambda record: {},
            lambda record: {**record, "version": 2},
            lambda record: {**record, "optimizer": None},
            lambda record: {**record, "extra": {"tensor": "none"}},
            lambda record: {**record, "extra": {"import": "os"}},
            lambda record: {**record, "extra": {"dict": [1]}},
            lambda record: {**record, "extra": {"dict": [[[], 1]]}},
            lambda record: {**record, "random": {"dict": [["cpu", 1]]}},
            lambda record: {**record, "optimizer": {**record["optimizer"], "groups": [1]}},
            lambda record: {**record, "optimizer": {**record["optimizer"], "entries": [1]}},
            lambda record: {
                **record,
                "optimizer": {**record["optimizer"], "entries": {"dict": [["fc.bias", 3]]}},
            },
        ],
    )
    def test_damaged_records(self, change, path):
        self.refused(Run(), self.rewritten(path, change), "its record of the training is damaged")

    @pytest.mark.parametrize("damage", [5, {"dict": []}, {"dict": [["schedule", 1]]}])
    def test_a_damaged_schedule(self, damage, path):
        self.rewritten(path, lambda record: {**record, "schedule": damage})
        self.refused(Run(), path, "training is damaged|no state of such a schedule")

    @pytest.mark.parametrize("rate", ["a", -1.0, True, None])
    def test_a_rate_that_cannot_be(self, rate, path):
        def change(record):
            group = record["optimizer"]["groups"][0]["dict"]
            next(pair for pair in group if pair[0] == "lr")[1] = rate
            return record

        self.refused(Run(), self.rewritten(path, change), "expected a finite number from 0")

    @pytest.mark.parametrize("name", ["adamw", "surgery.optim:LayerAdaptiveAdam"])
    def test_settings_that_came_later_are_the_class_s(self, name, tmp_path):
        later = {"foreach", "maximize", "capturable", "differentiable", "fused"}
        later |= {"amsgrad", "decoupled_weight_decay"}

        def change(record):
            for group in record["optimizer"]["groups"]:
                group["dict"] = [pair for pair in group["dict"] if pair[0] not in later]
            return record

        run = Run(name).train(until=7)
        expected = [dict(group) for group in run.optimizer.param_groups]
        path = self.rewritten(run.save(tmp_path / "old.safetensors"), change)
        resumed = Run(name, seed=1).resume(path)
        for group, wanted in zip(resumed.optimizer.param_groups, expected, strict=True):
            assert {k: group[k] for k in later & wanted.keys()} == {
                k: wanted[k] for k in later & wanted.keys()
            }

    def test_a_setting_that_is_missing(self, path):
        def change(record):
            group = record["optimizer"]["groups"][0]["dict"]
            group[:] = [pair for pair in group if pair[0] != "betas"]
            return record

        self.refused(Run(), self.rewritten(path, change), "groups lack the setting betas")

    def test_rules_that_are_no_text(self, path):
        self.rewritten(path, lambda record: {**record, "rules": 5})
        self.refused(Run(), path, "record of the training is damaged")

    def test_another_scheduler_of_torch(self, tmp_path):
        run, path = Run(), tmp_path / "other.safetensors"
        saved = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.9)
        surgery.save_training(path, **{**run.parts, "schedule": saved})
        given = torch.optim.lr_scheduler.StepLR(run.optimizer, 2)
        self.refused(
            run, path, "the schedule is .*ExponentialLR there and .*StepLR here", schedule=given
        )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.booleans()), inner)
    ),
    max_leaves=20,
)


def told(value):
    """NaN equals itself here, and types count."""
    if isinstance(value, list | tuple):
        return (type(value), [told(item) for item in value])
    if isinstance(value, dict):
        return (dict, [(told(key), told(item)) for key, item in value.items()])
    return (type(value), repr(value))


class TestPlain:
    @given(VALUES)
    def test_round_trip(self, value):
        written = json.dumps(packed(value, "x", {}), allow_nan=False)
        assert told(unpacked(json.loads(written), {})) == told(value)

    def test_tensors_and_counters(self):
        tensors = {}
        value = {"a": [torch.ones(2)], "a.0": torch.zeros(1), "c": Counter([3, 3])}
        again = unpacked(json.loads(json.dumps(packed(value, "x", tensors))), tensors)
        assert again["a"][0] is value["a"][0]
        assert again["a.0"] is value["a.0"]
        assert again["c"][4] == 0

    def test_numpy_numbers_are_refused(self):
        import numpy

        with pytest.raises(StateRefused, match=r"x: expected .* found numpy\.float64"):
            packed(numpy.float64(1), "x", {})


class TestFileOfVersion1:
    """``fixtures/training/version_1.safetensors``: seven of twelve steps, three an epoch.

    Written when the format was new, by ``save_training(..., rules=RULES, epoch=2, step=7,
    extra={"best": 0.5, "seen": (1, None)})``.
    """

    PATH = Path(__file__).parents[2] / "fixtures" / "training" / "version_1.safetensors"
    RULES = (
        "base optimizer=adamw lr=0.01\n0 unfreeze@2\n2 lr*=10\n"
        "schedule sgdr T_0=4 T_mult=2 by=step warmup=2"
    )

    @pytest.fixture
    def parts(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        optimizer = surgery.build_optimizer(model, self.RULES)
        schedule = surgery.build_schedule(optimizer, self.RULES, epochs=4, steps_per_epoch=3)
        stages = surgery.build_stages(model, self.RULES, optimizer=optimizer)
        return {"model": model, "optimizer": optimizer, "schedule": schedule, "stages": stages}

    def test_goes_on_where_it_was(self, parts):
        state = surgery.resume_training(self.PATH, **parts)
        assert (state.epoch, state.step, state.rules) == (2, 7, self.RULES)
        assert state.extra == {"best": 0.5, "seen": (1, None)}
        model, optimizer, schedule, stages = parts.values()
        assert (schedule.last_epoch, stages.epoch) == (7, 2)
        assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        batch = torch.linspace(-1, 1, 12).reshape(4, 3)
        for step in range(7, 12):
            if step % 3 == 0:
                stages.start_epoch(step // 3)
            model.train()
            optimizer.zero_grad()
            (model(batch) * torch.rand(4, 2)).square().sum().backward()
            optimizer.step()
            schedule.step()
        expected = torch.tensor([0.08171883225440979, -0.022393954917788506])
        torch.testing.assert_close(model[2].bias.detach(), expected)
        assert schedule.get_last_lr()[2] == pytest.approx(0.014644660940672627)

    def test_its_optimizer_state_goes_to_other_groups(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        optimizer = surgery.build_optimizer(model, "base optimizer=adamw lr=1")
        outcome = surgery.load_optimizer_state(optimizer, self.PATH)
        assert len(outcome.carried) == 6
        assert optimizer.state[model[2].bias]["step"] == 7
        assert optimizer.state[model[0].bias]["step"] == 1
