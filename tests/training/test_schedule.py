import gc
import json
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyNet
from torch.optim import lr_scheduler as schedulers

import surgery
from surgery.errors import RuleError, StateRefused, TrainingError
from surgery.tuning import parse_rules

EPOCHS, STEPS = 12, 5
RATES = (1e-8, 1e-5, 3e-3, 1.0)

#: Every schedule, with and without warm-up, and with what a run needs to say nothing more.
LINES = [
    "step step_size=3",
    "multistep milestones=3,7 gamma=0.3",
    "exponential gamma=0.7",
    "cosine",
    "cosine floor=0.01",
    "cosine T_max=4",
    "sgdr T_0=1 T_mult=2",
    "sgdr T_0=3 T_mult=1 floor=0.1",
    "onecycle",
    "onecycle anneal_strategy=linear three_phase=true",
    "plateau patience=0",
    "plateau patience=1 factor=0.5 floor=0.05 cooldown=1 mode=max",
]
WARMED = [f"{line} warmup=2" for line in LINES]
ALL = [*LINES, *WARMED, "cosine by=step", "sgdr T_0=1epoch T_mult=2 by=step warmup=1epoch"]


def optimizer_of(*rates, kind=torch.optim.SGD, **options):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return kind(groups, lr=0.1, **{"momentum": 0.9, **options} if kind is torch.optim.SGD else {})


def build(optimizer, line, **length):
    length = length or {"epochs": EPOCHS, "steps_per_epoch": STEPS}
    return surgery.build_schedule(optimizer, f"schedule {line}", **length)


def metric_of(position: int) -> float:
    """Gets better, worse and better again."""
    return (3.0, 2.0, 2.5, 2.5, 1.0, 1.5, 1.5, 1.5, 0.5)[position % 9]


def advance(schedule, position: int = 0) -> None:
    """What a loop does between two rates."""
    schedule.optimizer.step()
    if schedule.line.kind == "ReduceLROnPlateau":
        schedule.step(metric_of(position))
    else:
        schedule.step()


def run(schedule, units: int) -> list[list[float]]:
    """The groups' rates in each unit."""
    rates = []
    for position in range(units):
        rates.append([float(group["lr"]) for group in schedule.optimizer.param_groups])
        advance(schedule, position)
    return rates


def units_of(line: str) -> int:
    return EPOCHS * STEPS if "by=step" in line else EPOCHS


def torchs(line: str, optimizer):
    """Torch's scheduler for the one rate of the optimizer, made by hand."""
    (rate,) = [group["lr"] for group in optimizer.param_groups]
    make = {
        "step step_size=3": lambda o: schedulers.StepLR(o, 3),
        "multistep milestones=3,7 gamma=0.3": lambda o: schedulers.MultiStepLR(o, [3, 7], 0.3),
        "exponential gamma=0.7": lambda o: schedulers.ExponentialLR(o, 0.7),
        "cosine floor=0.01": lambda o: schedulers.CosineAnnealingLR(o, rest, 0.01 * rate),
        "cosine": lambda o: schedulers.CosineAnnealingLR(o, rest),
        "cosine T_max=4": lambda o: schedulers.CosineAnnealingLR(o, 4),
        "sgdr T_0=1 T_mult=2": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 1, 2),
        "sgdr T_0=3 T_mult=1 floor=0.1": lambda o: schedulers.CosineAnnealingWarmRestarts(
            o, 3, 1, 0.1 * rate
        ),
        "onecycle": lambda o: schedulers.OneCycleLR(o, rate, total_steps=rest),
        "onecycle anneal_strategy=linear three_phase=true": lambda o: schedulers.OneCycleLR(
            o, rate, total_steps=rest, anneal_strategy="linear", three_phase=True
        ),
        "plateau patience=0": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, eps=0),
        "plateau patience=1 factor=0.5 floor=0.05 cooldown=1 mode=max": lambda o: (
            schedulers.ReduceLROnPlateau(
                o,
                mode="max",
                factor=0.5,
                patience=1,
                cooldown=1,
                min_lr=0.05 * rate,
                eps=0,
            )
        ),
    }
    warm = line.endswith(" warmup=2")
    rest = EPOCHS - 2 * warm
    main = make[line.removesuffix(" warmup=2")](optimizer)
    if not warm:
        return main
    return schedulers.SequentialLR(
        optimizer, [schedulers.LinearLR(optimizer, 0.01, total_iters=2), main], [2]
    )


class TestLaws:
    @pytest.mark.parametrize("line", ALL)
    def test_ratios_hold(self, line):
        rates = run(build(optimizer_of(*RATES), line), units_of(line))
        for row in rates:
            for rate, own in zip(row, RATES, strict=True):
                assert rate * RATES[-1] == pytest.approx(row[-1] * own, rel=1e-12, abs=0)

    @pytest.mark.parametrize("line", ALL)
    def test_rates_move_and_never_rise_above_their_own(self, line):
        rates = run(build(optimizer_of(*RATES), line), units_of(line))
        assert len({row[0] for row in rates}) > 1
        assert all(
            0 <= rate <= own * (1 + 1e-12)
            for row in rates
            for rate, own in zip(row, RATES, strict=True)
        )

    @pytest.mark.parametrize("rate", [1e-8, 3e-4, 1.0])
    @pytest.mark.parametrize(
        "line", [*LINES, *(line for line in WARMED if not line.startswith("plateau"))]
    )
    def test_one_group_is_as_under_torch(self, line, rate):
        mine, theirs = optimizer_of(rate), optimizer_of(rate)
        schedule, scheduler = build(mine, line), torchs(line, theirs)
        for position in range(EPOCHS):
            assert mine.param_groups[0]["lr"] == pytest.approx(
                theirs.param_groups[0]["lr"], rel=1e-12, abs=0
            )
            assert mine.param_groups[0]["momentum"] == pytest.approx(
                theirs.param_groups[0]["momentum"], rel=1e-12
            )
            advance(schedule, position)
            theirs.step()
            scheduler.step(*([metric_of(position)] if line.startswith("plateau") else []))

    def test_a_warm_up_before_a_plateau_is_linear_and_then_judges(self):
        schedule = build(optimizer_of(1.0), "plateau patience=0 warmup=4 warmup_from=0.2")
        rates = []
        for _ in range(8):
            rates.append(schedule.factor)
            schedule.optimizer.step()
            schedule.step(1.0)
        assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.01], rel=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(
        own=st.lists(st.floats(1e-9, 10), min_size=2, max_size=4),
        line=st.sampled_from(ALL),
        stop=st.integers(0, EPOCHS - 1),
    )
    def test_a_saved_state_goes_on_identically(self, own, line, stop):
        whole = run(build(optimizer_of(*own), line), units_of(line))
        first = build(optimizer_of(*own), line)
        begun = run(first, stop)
        second = build(optimizer_of(*own), line)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        rest = []
        for position in range(stop, units_of(line)):
            rest.append([group["lr"] for group in second.optimizer.param_groups])
            advance(second, position)
        assert begun + rest == whole


class TestRestarts:
    def test_length_1_multiplier_2(self):
        schedule = build(optimizer_of(1.0), "sgdr T_0=1 T_mult=2", epochs=7)
        rates = [rate for (rate,) in run(schedule, 8)]
        assert [epoch for epoch, rate in enumerate(rates) if rate == 1.0] == [0, 1, 3, 7]

    def test_in_epochs_and_by_step(self):
        schedule = build(optimizer_of(1.0), "sgdr T_0=1epoch T_mult=2 by=step")
        rates = [rate for (rate,) in run(schedule, 8 * STEPS)]
        assert [i / STEPS for i, rate in enumerate(rates) if rate == 1.0] == [0, 1, 3, 7]

    def test_multiplier_1(self):
        rates = run(build(optimizer_of(1.0), "sgdr T_0=2 T_mult=1"), 6)
        assert [rate for (rate,) in rates] == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5])


class TestGroups:
    def test_the_smallest_group_is_still_reduced(self):
        optimizer = optimizer_of(1e-8, 1.0)
        schedule = build(optimizer, "plateau patience=0")
        for _ in range(3):
            optimizer.step()
            schedule.step(1.0)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-10, rel=1e-12)

    def test_a_stale_initial_lr_is_not_read(self):
        optimizer = optimizer_of(1.0)
        optimizer.param_groups[0]["initial_lr"] = 7.0
        assert build(optimizer, "cosine").base_lrs == [1.0]

    @pytest.mark.parametrize("line", ["cosine floor=0.01 warmup=3", "onecycle", "plateau"])
    def test_a_group_that_comes_later_has_its_own_rate_times_the_factor(self, line):
        optimizer = optimizer_of(1.0)
        schedule = build(optimizer, line)
        run(schedule, 4)
        optimizer.add_param_group(
            {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1e-4, "momentum": 0.9}
        )
        optimizer.step()
        for _ in range(5):
            first, second = (group["lr"] for group in optimizer.param_groups)
            assert second == pytest.approx(1e-4 * first, rel=1e-12)
            advance(schedule)
        assert schedule.base_lrs == [1.0, 1e-4]

    def test_a_schedule_that_was_replaced_does_not_meddle(self):
        optimizer = optimizer_of(1.0)
        old = build(optimizer, "exponential gamma=0.5")
        run(old, 2)
        del old
        gc.collect()
        new = build(optimizer, "exponential gamma=0.1")
        assert new.base_lrs == [0.25]
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0})
        advance(new)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.1])

    def test_a_replaced_schedule_that_is_alive_does_not_meddle(self):
        optimizer = optimizer_of(1.0)
        old = build(optimizer, "exponential gamma=0.5")
        run(old, 2)
        new = build(optimizer, "exponential gamma=0.1")
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0})
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.25, 1.0]
        assert (old.base_lrs, new.base_lrs) == ([1.0], [0.25, 1.0])

    def test_a_group_that_comes_later_leaves_the_others_alone(self):
        optimizer = optimizer_of(1.0)
        schedule = build(optimizer, "exponential gamma=0.5")
        run(schedule, 1)
        optimizer.param_groups[0]["lr"] = 7.0
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0})
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [7.0, 0.5]

    @pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
    def test_rates_that_no_schedule_can_multiply(self, rate):
        optimizer = optimizer_of(1.0, 1.0)
        optimizer.param_groups[1]["lr"] = rate
        with pytest.raises(TrainingError, match="expected finite learning rates from 0"):
            build(optimizer, "cosine")
        assert "initial_lr" not in optimizer.param_groups[0]

    def test_a_rate_of_0_stands_still(self):
        rates = run(build(optimizer_of(0.0, 1.0), "cosine warmup=2"), EPOCHS)
        assert {row[0] for row in rates} == {0.0}

    def test_rates_that_are_tensors_keep_their_identity(self):
        optimizer = torch.optim.Adam(
            [torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(1.0), capturable=False
        )
        rate = optimizer.param_groups[0]["lr"]
        schedule = build(optimizer, "exponential gamma=0.5")
        run(schedule, 2)
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == 0.25

    def test_rules_a_model_and_a_schedule(self, tmp_path):
        path = tmp_path / "rules.txt"
        path.write_text("base optimizer=sgd\nsplit blocks fc lr=1e-8,1e-4,1\nschedule cosine")
        optimizer = surgery.build_optimizer(TinyNet(), path)
        schedule = surgery.build_schedule(optimizer, path, epochs=EPOCHS)
        for row in run(schedule, EPOCHS):
            assert row[0] / row[2] == pytest.approx(1e-8, rel=1e-12)


class TestMomentum:
    @pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop])
    def test_it_cycles_where_there_is_one(self, kind):
        mine, theirs = optimizer_of(1.0, kind=kind), optimizer_of(1.0, kind=kind)
        schedule = build(mine, "onecycle base_momentum=0.8")
        scheduler = schedulers.OneCycleLR(theirs, 1.0, total_steps=EPOCHS, base_momentum=0.8)
        for _ in range(EPOCHS):
            for key in ("betas", "momentum"):
                if key in theirs.param_groups[0]:
                    assert mine.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key])
            advance(schedule)
            theirs.step()
            scheduler.step()

    def test_without_one_it_is_refused_before_anything_is_changed(self):
        optimizer = optimizer_of(1.0, kind=torch.optim.Adagrad)
        with pytest.raises(RuleError, match="Adagrad has none: cycle_momentum=false"):
            build(optimizer, "onecycle")
        assert optimizer.param_groups[0]["lr"] == 1.0
        assert build(optimizer, "onecycle cycle_momentum=false").factor == pytest.approx(0.04)


class TestState:
    def test_it_is_plain(self):
        schedule = build(optimizer_of(1.0), "plateau warmup=2")
        run(schedule, 5)
        state = schedule.state_dict()
        assert json.loads(json.dumps(state)) == state

    def test_the_position_alone_for_other_rates_and_groups(self):
        old = build(optimizer_of(1.0), "cosine floor=0.1")
        run(old, 5)
        new = build(optimizer_of(1e-3, 2e-3), "cosine floor=0.1")
        new.load_state_dict({**old.state_dict(), "base_lrs": new.base_lrs})
        assert new.factor == old.factor
        assert new.get_last_lr() == pytest.approx([1e-3 * old.factor, 2e-3 * old.factor])
        advance(old)
        advance(new)
        assert new.factor == old.factor

    @pytest.mark.parametrize(
        ("line", "rates", "message"),
        [
            ("exponential gamma=0.5", [1.0], "the saved state is of `CosineAnnealingLR"),
            ("cosine T_max=7", [1.0], "this is `CosineAnnealingLR T_max=7"),
            ("cosine", [1.0, 2.0], "the saved schedule has 1 groups and the optimizer 2"),
        ],
    )
    def test_another_schedules_is_refused(self, line, rates, message):
        saved = build(optimizer_of(1.0), "cosine")
        run(saved, 3)
        schedule = build(optimizer_of(*rates), line)
        before = json.dumps(schedule.state_dict())
        with pytest.raises(StateRefused, match=message):
            schedule.load_state_dict(saved.state_dict())
        assert json.dumps(schedule.state_dict()) == before

    @pytest.mark.parametrize("line", ["onecycle", "plateau warmup=2", "sgdr T_0=2 warmup=1"])
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("position",), "3"),
            (("position",), True),
            (("position",), -1),
            (("position",), 4),
            (("base_lrs",), None),
            (("base_lrs",), ["a"]),
            (("base_lrs",), [math.nan]),
            (("base_lrs",), [1.0, 2.0]),
            (("reference",), None),
            (("reference",), {"lr": 1.0}),
            (("reference", "lr"), "a"),
            (("reference", "momentum"), None),
            (("reference", "lr"), math.inf),
            (("reference", "schedulers"), []),
            (("reference", "schedulers"), 7),
            (("reference", "schedulers", 0), {}),
            (("reference", "schedulers", 0, "last_epoch"), 1.5),
            (("reference", "schedulers", 0, "_last_lr"), [1.0, 1.0]),
        ],
    )
    def test_a_damaged_one_is_refused_and_nothing_changes(self, line, path, value):
        saved = build(optimizer_of(1.0), line)
        run(saved, 3)
        state = json.loads(json.dumps(saved.state_dict()))
        place = state
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        schedule = build(optimizer_of(0.5), line)
        before = json.dumps(schedule.state_dict())
        group = dict(schedule.optimizer.param_groups[0])
        with pytest.raises(StateRefused):
            schedule.load_state_dict(state)
        assert json.dumps(schedule.state_dict()) == before
        assert schedule.optimizer.param_groups[0] == group

    @pytest.mark.parametrize("state", [None, [], "state", 3])
    def test_no_mapping_at_all(self, state):
        with pytest.raises(StateRefused, match="no state of such a schedule"):
            build(optimizer_of(1.0), "cosine").load_state_dict(state)

    def test_torchs_own_state_is_refused(self):
        scheduler = schedulers.StepLR(optimizer_of(1.0), 3)
        with pytest.raises(StateRefused, match="no state of such a schedule"):
            build(optimizer_of(1.0), "step step_size=3").load_state_dict(scheduler.state_dict())

    def test_a_resumed_schedule_does_not_warn_of_a_forgotten_step(self):
        saved = build(optimizer_of(1.0), "cosine")
        run(saved, 1)
        schedule = build(optimizer_of(1.0), "cosine")
        schedule.load_state_dict(saved.state_dict())
        schedule.step()


class TestSources:
    def test_every_way_to_say_it(self, tmp_path):
        text = "base lr=1\nschedule cosine T_max=5"
        (tmp_path / "rules.txt").write_text(text)
        rules = parse_rules(text)
        for source in (
            tmp_path / "rules.txt",
            str(tmp_path / "rules.txt"),
            text,
            text.splitlines(),
            rules,
            "schedule cosine T_max=5",
        ):
            schedule = surgery.build_schedule(optimizer_of(1.0), source)
            assert schedule.line.canonical == "CosineAnnealingLR T_max=5 by=epoch"

    def test_no_schedule_line(self):
        with pytest.raises(RuleError, match="<rules>: there is no schedule line: write one"):
            surgery.build_schedule(optimizer_of(1.0), "fc freeze")


class TestErrors:
    @pytest.mark.parametrize(
        ("line", "length", "message"),
        [
            ("cosine", {}, "CosineAnnealingLR needs T_max= here, or epochs= in the call"),
            ("onecycle by=step", {"epochs": 3}, "or epochs= and steps_per_epoch= in the call"),
            ("cosine warmup=3", {"epochs": 3}, "a warm-up of 3 leaves nothing of the run's 3"),
            ("sgdr T_0=1epoch by=step", {"epochs": 3}, "T_0=1epoch by=step needs steps_per_epoch="),
            ("cosine warmup=2epochs by=step", {"epochs": 3}, "warmup=2epochs by=step needs"),
            ("onecycle total_steps=5", {"epochs": 9}, "is over after 5 epochs, and the run has 9"),
            ("onecycle pct_start=0.1", {"epochs": 10}, "cannot rise in one epoch"),
            ("cosine floor=3", {"epochs": 10}, "floor"),
            ("exponential gamma=10", {"epochs": 400}, "gamma=10 overflows in this run"),
            ("step step_size=2 gamma=1e200", {"epochs": 4}, "which multiplies by it 2 times"),
            ("multistep milestones=1,3 gamma=1e200", {"epochs": 3}, "multiplies by it 2 times"),
        ],
    )
    def test_of_the_line(self, line, length, message):
        optimizer = optimizer_of(1.0)
        before = dict(optimizer.param_groups[0])
        with pytest.raises(RuleError) as caught:
            surgery.build_schedule(optimizer, f"# one\nschedule {line}", **length)
        assert message in str(caught.value)
        assert str(caught.value).startswith("<rules>:2: ")
        assert optimizer.param_groups[0] == before

    @pytest.mark.parametrize("length", [{"epochs": 0}, {"epochs": True}, {"steps_per_epoch": 1.5}])
    def test_of_the_runs_length(self, length):
        with pytest.raises(TrainingError, match="expected a whole number from 1"):
            surgery.build_schedule(optimizer_of(1.0), "schedule cosine T_max=3", **length)

    def test_a_plateau_needs_its_metric(self):
        schedule = build(optimizer_of(1.0), "plateau")
        schedule.optimizer.step()
        with pytest.raises(TrainingError, match=r"goes by a metric: step\(metric\)"):
            schedule.step()

    @pytest.mark.parametrize(
        ("metric", "message"),
        [
            ("a", "expected one number, found a str"),
            (torch.ones(2), r"expected one number, found the shape \(2,\)"),
            (math.nan, "is NaN"),
            (torch.tensor(math.nan), "is NaN"),
        ],
    )
    def test_a_metric_that_is_none(self, metric, message):
        schedule = build(optimizer_of(1.0), "plateau warmup=2")
        schedule.optimizer.step()
        before = json.dumps(schedule.state_dict())
        with pytest.raises(TrainingError, match=message):
            schedule.step(metric)
        assert json.dumps(schedule.state_dict()) == before

    def test_a_metric_by_torchs_keyword(self):
        schedule = build(optimizer_of(1.0), "plateau patience=0")
        for metric in (1.0, torch.tensor([2.0])):
            schedule.optimizer.step()
            schedule.step(metrics=metric)
        assert schedule.factor == pytest.approx(0.1)

    def test_gamma_above_1_to_where_it_just_fits(self):
        schedule = build(optimizer_of(1.0), "exponential gamma=10 warmup=2", epochs=310)
        run(schedule, 310)
        assert math.isfinite(schedule.factor)

    def test_no_other_takes_one(self):
        schedule = build(optimizer_of(1.0), "cosine")
        schedule.optimizer.step()
        with pytest.raises(TrainingError, match=r"takes no metric.* found step\(3\)"):
            schedule.step(3)

    def test_one_cycle_ends(self):
        schedule = build(optimizer_of(1.0), "onecycle", epochs=4)
        run(schedule, 4)
        rate = schedule.get_last_lr()
        schedule.optimizer.step()
        with pytest.raises(RuleError, match="<rules>:1: OneCycleLR is over after 4 epochs"):
            schedule.step()
        assert schedule.get_last_lr() == rate

    def test_a_forgotten_optimizer_step_is_warned_of(self):
        schedule = build(optimizer_of(1.0), "cosine")
        with pytest.warns(UserWarning, match="before `optimizer.step"):
            schedule.step()

    @pytest.mark.parametrize("line", ALL)
    def test_and_nobody_else_is_warned(self, line):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(build(optimizer_of(1.0), line), units_of(line))
