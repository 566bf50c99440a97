from collections import UserDict
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TiedLanguageModel, TinyNet, Wrapper, same_bits, snapshot
from torch import nn

import surgery
from surgery.errors import CheckpointError, OptimizerError, StateRefused, SurgeryError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

KINDS = {
    "sgd": {"momentum": 0.9},
    "adamw": {"amsgrad": True},
    "rmsprop": {"momentum": 0.5, "centered": True},
    "nadam": {},
    "adafactor": {},
    "timm:lamb": {},
    "timm:adan": {},
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, times: int = 3) -> None:
    model.train()
    for _ in range(times):
        optimizer.zero_grad()
        model(IMAGES).square().mean().backward()
        optimizer.step()


def states(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, object]]:
    """Copies of every state by name."""
    return {
        name.removeprefix("module."): deepcopy(optimizer.state[parameter])
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        if optimizer.state.get(parameter)
    }


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype
        return same and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def trained(name: str = "adamw", rules: str = "base lr=0.01", **keys: object):
    model = TinyNet()
    optimizer = surgery.build_optimizer(model, rules, optimizer=name, **keys)
    step(model, optimizer)
    return model, optimizer


class TestAnotherHeadAndOtherGroups:
    RULES = "base lr=0.5\nfc lr=0.25\n:1d wd=0 lr=0.125"

    @pytest.mark.parametrize("name", KINDS)
    def test_momenta_go_by_name_and_the_head_starts_empty(self, name):
        _, old = trained(name, **KINDS[name])
        before = states(old)
        other = TinyNet(num_classes=9)
        new = surgery.build_optimizer(other, self.RULES, optimizer=name, **KINDS[name])
        for group in new.param_groups:  # and in another order
            group["params"].reverse()
            group["param_names"].reverse()
        rates = [(group["lr"], group["weight_decay"]) for group in new.param_groups]
        outcome = surgery.load_optimizer_state(new, old)
        assert set(outcome.reshaped) == {"fc.weight", "fc.bias"}
        assert (outcome.fresh, outcome.unused) == ((), ())
        head = {"fc.weight", "fc.bias"}
        assert equal({k: v for k, v in before.items() if k not in head}, states(new))
        assert equal(states(old), before)
        assert [(group["lr"], group["weight_decay"]) for group in new.param_groups] == rates
        step(other, new)

    def test_what_is_carried_is_a_copy(self):
        _, old = trained()
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        surgery.load_optimizer_state(new, old)
        before = states(old)
        for state in new.state.values():
            state["exp_avg"].zero_()
        assert equal(states(old), before)

    def test_what_is_not_carried_starts_empty(self):
        model, old = trained(rules="base lr=0.01\nstem freeze")
        new = surgery.build_optimizer(model, "base lr=1\n:all train")
        step(model, new, 1)
        outcome = surgery.load_optimizer_state(new, old)
        assert outcome.fresh == ("stem.weight",)
        assert model.stem.weight not in new.state

    def test_the_outcome_tells_it_all(self):
        _, old = trained()
        new = surgery.build_optimizer(
            TinyNet(9), "base lr=1 betas=0.9,0.99\nbn freeze\nstem name=s"
        )
        outcome = surgery.load_optimizer_state(new, old)
        assert str(outcome) == (
            "13 of 15 parameters carry their state on\n"
            "  reshaped  fc.weight: exp_avg was (5, 8) and is to be (9, 8)\n"
            "  reshaped  fc.bias: exp_avg was (5,) and is to be (9,)\n"
            "  unused    bn.weight, bn.bias"
        )
        assert outcome.unused == ("bn.weight", "bn.bias")

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_every_parameter_has_one_fate(self, data):
        model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in "abcdef"})
        names = [name for name, _ in model.named_parameters()]

        def optimizer(chosen):
            return torch.optim.Adam([(name, model.get_parameter(name)) for name in chosen], 0.1)

        some = st.lists(st.sampled_from(names), min_size=1, unique=True)
        old, new = optimizer(data.draw(some)), optimizer(data.draw(some))
        for index, name in enumerate(old.param_groups[0]["param_names"]):
            parameter = model.get_parameter(name)
            old.state[parameter] = {
                "step": torch.tensor(3.0),
                "exp_avg": torch.full_like(parameter, index),
                "exp_avg_sq": torch.full_like(parameter, 2.0 * index),
            }
        shared = set(states(old)) & set(new.param_groups[0]["param_names"])
        if not shared:
            with pytest.raises(StateRefused):
                surgery.load_optimizer_state(new, old.state_dict())
            return
        outcome = surgery.load_optimizer_state(new, old.state_dict())
        assert set(outcome.carried) == shared
        assert sorted((*outcome.carried, *outcome.fresh)) == sorted(
            new.param_groups[0]["param_names"]
        )
        assert set(outcome.unused) == set(states(old)) - shared
        assert equal(states(new), {k: v for k, v in states(old).items() if k in shared})


class TestSources:
    def test_wrapped_or_not(self):
        model = TinyNet()
        old = surgery.build_optimizer(Wrapper(model), "base lr=0.01")
        step(model, old)
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        assert len(surgery.load_optimizer_state(new, old.state_dict()).carried) == 17

    def test_tied(self):
        model = TiedLanguageModel()
        old = surgery.build_optimizer(model, "base optimizer=sgd lr=0.01 momentum=0.9")
        model(torch.arange(5)).sum().backward()
        old.step()
        new = surgery.build_optimizer(model, "base optimizer=sgd lr=1 momentum=0.9\nbody lr=2")
        assert surgery.load_optimizer_state(new, old).fresh == ()

    @pytest.mark.parametrize("form", ["state", "container", "list", "pt", "old pt", "pt container"])
    def test_state_dicts_with_names(self, form, tmp_path):
        _, old = trained()
        saved = old.state_dict()
        if form == "container":
            saved = {"epoch": 3, "optimizer": saved}
        elif form == "list":
            saved = {"optimizer_states": [saved]}
        elif "pt" in form:
            saved = {"optimizer": saved, "model": {}} if "container" in form else saved
            path = tmp_path / "optimizer.pt"
            torch.save(saved, path, _use_new_zipfile_serialization="old" not in form)
            saved = path
        new = surgery.build_optimizer(TinyNet(), "base lr=1\nfc lr=2")
        outcome = surgery.load_optimizer_state(new, saved)
        assert len(outcome.carried) == 17
        assert equal(states(new), states(old))

    def test_names_in_place_of_positions(self):
        _, old = trained()
        saved = old.state_dict()
        names = [name for group in saved["param_groups"] for name in group["param_names"]]
        saved = {
            "state": {names[index]: entry for index, entry in saved["state"].items()},
            "param_groups": [{"params": names}],
        }
        new = surgery.build_optimizer(TinyNet(), "base lr=1\nfc lr=2")
        surgery.load_optimizer_state(new, saved)
        assert equal(states(new), states(old))

    def test_torchs_own_named_optimizers(self):
        model = TinyNet()
        old = torch.optim.AdamW(model.named_parameters(), lr=0.1)
        step(model, old)
        new = surgery.build_optimizer(model, "base lr=1\nfc lr=2")
        assert len(surgery.load_optimizer_state(new, old).carried) == 17

    def test_steps_that_were_numbers(self):
        """As Adam had them before torch 1.12."""
        _, old = trained()
        saved = deepcopy(old.state_dict())
        for entry in saved["state"].values():
            entry["step"] = int(entry["step"])
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        surgery.load_optimizer_state(new, saved)
        assert equal(states(new), states(old))

    @pytest.mark.parametrize("wrapped", [dict, UserDict], ids=["dict", "other-mapping"])
    def test_a_state_is_found_as_deep_in_a_mapping_as_in_a_file(self, wrapped):
        _, old = trained()
        saved = {"run": {"optimizers": [wrapped(old.state_dict())]}}
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        surgery.load_optimizer_state(new, saved)
        assert equal(states(new), states(old))

    def test_two_states_in_one_mapping(self):
        _, old = trained()
        saved = {"generator": old.state_dict(), "critic": old.state_dict()}
        with pytest.raises(StateRefused, match="holds 2 optimizer states, generator, critic"):
            surgery.load_optimizer_state(old, saved)

    @pytest.mark.parametrize(
        ("saved", "message"),
        [
            ({}, "holds no optimizer state"),
            ({"state": [], "param_groups": []}, "damaged"),
            ({"state": {}, "param_groups": [{}]}, "damaged"),
            (7, "expected an optimizer, its state_dict.. or a file, found int"),
        ],
    )
    def test_what_is_no_state(self, saved, message):
        _, old = trained()
        before = states(old)
        with pytest.raises(StateRefused, match=message):
            surgery.load_optimizer_state(old, saved)
        assert equal(states(old), before)

    def test_files_that_hold_none(self, tmp_path):
        _, old = trained()
        surgery.save(TinyNet(), tmp_path / "w.safetensors")
        torch.save(TinyNet().state_dict(), tmp_path / "w.pt")
        (tmp_path / "x.pt").write_bytes(b"nothing")
        for name, kind in [
            ("w.safetensors", CheckpointError),
            ("w.pt", StateRefused),
            ("x.pt", CheckpointError),
            ("none.pt", CheckpointError),
        ]:
            with pytest.raises(kind) as caught:
                surgery.load_optimizer_state(old, tmp_path / name)
            assert "\n" not in str(caught.value), name

    def test_nothing_in_a_file_is_executed(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (exec, ("raise SystemExit('executed')",))

        model, old = trained()
        saved = {**old.state_dict(), "note": Trap()}
        saved["param_groups"][0]["note"] = Trap()
        torch.save(saved, tmp_path / "o.pt")
        new = surgery.build_optimizer(model, "base lr=1")
        assert len(surgery.load_optimizer_state(new, tmp_path / "o.pt").carried) == 17
        saved["state"][0]["note"] = Trap()
        torch.save(saved, tmp_path / "o.pt")
        with pytest.raises(CheckpointError, match="state holds .*exec"):
            surgery.load_optimizer_state(new, tmp_path / "o.pt")

    def test_pickles_that_go_in_circles_or_repeat_themselves(self, tmp_path):
        _, old = trained()
        saved, before = deepcopy(old.state_dict()), states(old)
        saved["state"][0]["self"] = saved["state"]
        torch.save(saved, tmp_path / "circle.pt")
        with pytest.raises(CheckpointError, match="nested too deep"):
            surgery.load_optimizer_state(old, tmp_path / "circle.pt")
        wide = []
        for _ in range(4):
            wide = [wide] * 10_000
        torch.save([wide, old.state_dict()], tmp_path / "wide.pt")
        assert len(surgery.load_optimizer_state(old, tmp_path / "wide.pt").carried) == 17
        assert equal(states(old), before)


class TestWithoutNames:
    def test_one_group_goes_by_the_models_order(self):
        model = TinyNet()
        old = torch.optim.AdamW(model.parameters())
        step(model, old)
        new = surgery.build_optimizer(TinyNet(), "base lr=1\nfc lr=2")
        surgery.load_optimizer_state(new, old.state_dict(), model=model)
        assert equal(states(new)["fc.weight"], dict(old.state[model.fc.weight]))
        with pytest.raises(StateRefused, match="keeps no names: give model="):
            surgery.load_optimizer_state(new, old.state_dict())

    def test_an_order_that_shapes_cannot_check_is_said(self):
        model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
        old = torch.optim.SGD(list(model.parameters())[::-1], 0.1, momentum=0.9)
        model(torch.ones(1, 4)).sum().backward()
        old.step()
        new = surgery.build_optimizer(model, "base optimizer=sgd lr=1 momentum=0.9")
        outcome = surgery.load_optimizer_state(new, old.state_dict(), model=model)
        (note,) = outcome.notes
        assert "no names: taken in the model's order, which 3 parameters" in note
        assert note in str(outcome)
        assert surgery.load_optimizer_state(new, old, model=model).notes == ()

    def test_only_what_trained(self):
        model = TinyNet()
        model.stem.requires_grad_(False)
        old = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        step(model, old)
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        outcome = surgery.load_optimizer_state(new, old.state_dict(), model=model)
        assert outcome.fresh == ("stem.weight",)
        assert equal(states(new)["fc.weight"], dict(old.state[model.fc.weight]))

    def test_groups_told_apart_by_shape(self):
        """No decay on vectors: two groups, and no shape is in both."""
        model = TinyNet()
        vectors = [p for p in model.parameters() if p.ndim == 1]
        matrices = [p for p in model.parameters() if p.ndim > 1]
        old = torch.optim.AdamW([{"params": vectors, "weight_decay": 0}, {"params": matrices}])
        step(model, old)
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        surgery.load_optimizer_state(new, old.state_dict(), model=model)
        for name, parameter in model.named_parameters():
            assert equal(states(new)[name], dict(old.state[parameter]))

    def test_groups_that_could_be_exchanged_are_refused_and_the_way_works(self):
        model = TinyNet()
        parts = [{"params": model.fc.parameters()}]
        parts += [{"params": block.parameters()} for block in model.blocks]
        old = torch.optim.AdamW(parts)
        step(model, old)
        half = TinyNet()
        half.stem, half.bn = nn.Identity(), nn.Identity()
        new = surgery.build_optimizer(TinyNet(), "base lr=1")
        with pytest.raises(StateRefused, match="pass that one with model=, which is exact"):
            surgery.load_optimizer_state(new, old.state_dict(), model=half)
        surgery.load_optimizer_state(new, old, model=model)
        assert equal(states(new)["blocks.1.0.bias"], dict(old.state[model.blocks[1][0].bias]))

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (TinyNet(9), r"shape \(5, 8\) at position 15, where the model has fc\.weight \(9, 8\)"),
            (nn.Linear(2, 2), "is of 17 parameters without names, the model has 2"),
        ],
    )
    def test_another_model(self, other, message):
        model = TinyNet()
        old = torch.optim.AdamW(model.parameters())
        step(model, old)
        new = surgery.build_optimizer(model, "base lr=1")
        with pytest.raises(StateRefused, match=message):
            surgery.load_optimizer_state(new, old.state_dict(), model=other)
        assert not new.state

    def test_before_the_first_step(self):
        model = TinyNet()
        old = torch.optim.AdamW(model.parameters())
        new = surgery.build_optimizer(model, "base lr=1")
        assert surgery.load_optimizer_state(new, old.state_dict()).carried == ()
        assert not old.state
        assert not new.state


class TestOtherOptimizers:
    def test_are_refused(self):
        model, old = trained("sgd", momentum=0.9)
        new = surgery.build_optimizer(model, "base optimizer=adamw lr=1")
        for saved in (old, old.state_dict()):
            with pytest.raises(
                StateRefused, match="nothing of the saved state can be carried"
            ) as e:
                surgery.load_optimizer_state(new, saved)
            assert "\n" not in str(e.value)
            assert not new.state

    def test_equal_keys_do_not_mean_the_same(self):
        model = nn.Linear(4, 4, bias=False)
        old = torch.optim.SGD(model.named_parameters(), 0.1, momentum=0.9)
        model(torch.randn(2, 4)).sum().backward()
        old.step()
        new = torch.optim.Muon(model.named_parameters())
        with pytest.raises(StateRefused, match="SGD saved it, Muon is to go on"):
            surgery.load_optimizer_state(new, old)

    def test_adams_go_on_from_each_other(self):
        model, old = trained("adam")
        new = surgery.build_optimizer(model, "base optimizer=adamw lr=1")
        surgery.load_optimizer_state(new, old)
        assert equal(states(new), states(old))

    def test_other_settings_of_one_optimizer(self):
        model, old = trained("adamw", amsgrad=True)
        without = surgery.build_optimizer(model, "base lr=1")
        surgery.load_optimizer_state(without, old)
        assert set(states(without)["fc.bias"]) == {"step", "exp_avg", "exp_avg_sq"}
        again = surgery.build_optimizer(model, "base lr=1\nfc amsgrad=true")
        outcome = surgery.load_optimizer_state(again, without)
        assert outcome.fresh == ("fc.weight", "fc.bias")
        assert "max_exp_avg_sq, saved is step" in str(outcome)
        step(model, again)

    def test_another_models_state(self):
        _, old = trained()
        new = surgery.build_optimizer(nn.Linear(2, 2), "base lr=1")
        with pytest.raises(
            StateRefused, match=r"it is of stem\.weight \.\.\., the optimizer has we"
        ):
            surgery.load_optimizer_state(new, old)

    def test_a_group_cannot_go_on_from_two_counts(self):
        model, old = trained("timm:lamb", "base lr=0.01\nfc lr=0.1")
        old.param_groups[1]["step"] = 7
        new = surgery.build_optimizer(model, "base optimizer=timm:lamb lr=0.1\nstem lr=1")
        outcome = surgery.load_optimizer_state(new, old)
        assert outcome.carried == ("stem.weight",)
        assert "two counts of steps" in str(outcome)
        step(model, new)

    def test_what_is_no_state_of_single_parameters(self):
        """LBFGS keeps one history, of all parameters in their order, at the first of them."""
        model = nn.Linear(2, 1)
        old = torch.optim.LBFGS(model.named_parameters())
        old.step(lambda: model(torch.ones(3, 2)).square().sum())
        old.state[model.weight]["d"] = torch.ones(3)
        new = torch.optim.LBFGS(model.named_parameters(), lr=0.5)
        with pytest.raises(StateRefused, match=r"weight: was \(3,\) and is to be \(1, 2\)"):
            surgery.load_optimizer_state(new, old)


class TestRebuild:
    RULES = "base optimizer=sgd lr=0.01 momentum=0.9"

    def test_other_rates_in_mid_run_leave_momenta_bit_equal(self):
        model, old = trained("sgd", momentum=0.9)
        before, text = states(old), str(old)
        new = surgery.rebuild_optimizer(old, model, self.RULES + "\nfc lr*=7\n:1d wd=0.5")
        assert equal(states(new), before)
        assert equal(states(old), before)
        assert str(old) == text
        assert {group["lr"] for group in new.param_groups} == {0.01, 0.01 * 7}
        assert all("initial_lr" not in group for group in new.param_groups)

    def test_equals_a_run_whose_rates_were_set_by_hand(self):
        model, old = trained("sgd", momentum=0.9)
        other = deepcopy(model)
        by_hand = torch.optim.SGD(other.named_parameters(), 0.01, momentum=0.9)
        surgery.load_optimizer_state(by_hand, old)
        new = surgery.rebuild_optimizer(old, model, self.RULES.replace("0.01", "0.5"))
        by_hand.param_groups[0]["lr"] = 0.5
        step(model, new)
        step(other, by_hand)
        assert same_bits(snapshot(model), snapshot(other))

    def test_the_class_is_the_old_ones_where_nobody_names_one(self):
        model, old = trained("rmsprop")
        assert type(surgery.rebuild_optimizer(old, model, "base lr=1")) is torch.optim.RMSprop

    def test_a_new_head_of_the_same_size_starts_empty(self):
        model, old = trained("sgd", momentum=0.9)
        model.fc = nn.Linear(8, 5)
        new = surgery.rebuild_optimizer(old, model, self.RULES)
        assert set(states(new)) == set(states(old)) - {"fc.weight", "fc.bias"}
        step(model, new)

    def test_optimizers_without_names(self):
        model = TinyNet()
        old = torch.optim.SGD(reversed(list(model.parameters())), 0.1, momentum=0.9)
        step(model, old)
        new = surgery.rebuild_optimizer(old, model, self.RULES)
        assert all(
            equal(dict(old.state[p]), states(new)[name]) for name, p in model.named_parameters()
        )

    def test_what_waits_for_its_stage_counts_as_trainable(self):
        rules = "base optimizer=sgd lr=0.01 momentum=0.9\nstem unfreeze@9"
        model, old = trained("sgd", rules)
        new = surgery.rebuild_optimizer(old, model, self.RULES)
        assert model.stem.weight.requires_grad
        assert "stem.weight" in new.param_groups[0]["param_names"]

    @pytest.mark.parametrize(
        ("rules", "kind"),
        [
            ("base optimizer=adamw lr=1\nfc freeze", StateRefused),
            ("base optimizer=sgd lr=1\nfc freeze", StateRefused),  # no momentum, no state
            ("fx lr=1", SurgeryError),
            (":all freeze", OptimizerError),
        ],
    )
    def test_nothing_is_changed_where_it_is_refused(self, rules, kind):
        model, old = trained("sgd", momentum=0.9)
        before, weights = states(old), snapshot(model)
        with pytest.raises(kind) as caught:
            surgery.rebuild_optimizer(old, model, rules)
        assert "\n" not in str(caught.value) or kind is OptimizerError
        assert equal(states(old), before)
        assert same_bits(snapshot(model), weights)
        assert all(p.requires_grad and p.grad is not None for p in model.parameters())

    def test_before_the_first_step_there_is_nothing_to_carry(self):
        model = TinyNet()
        old = surgery.build_optimizer(model, self.RULES)
        new = surgery.rebuild_optimizer(old, model, self.RULES)
        assert not old.state
        assert not new.state
