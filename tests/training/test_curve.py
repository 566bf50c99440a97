import json
import math
from xml.etree import ElementTree

import pytest
import torch
from tiny_models import TinyNet

import surgery
from surgery.errors import RuleError, TrainingError
from surgery.networks.describe import describe
from surgery.training.curve import schedule_curve
from surgery.training.schedule_plot import plot_schedule
from surgery.tuning import resolve_groups

TINY = describe(TinyNet())
RULES = "base optimizer=sgd\nsplit blocks fc lr=1e-6,1e-4,1e-2\nstem freeze\nblocks unfreeze@2\n"


def curve_of(schedule: str = "", *, epochs: int = 7, steps_per_epoch: int = 1, rules: str = RULES):
    groups = resolve_groups(TINY, f"{rules}{schedule}")
    return schedule_curve(groups, epochs=epochs, steps_per_epoch=steps_per_epoch)


def told(curve) -> list[tuple[float, str]]:
    return [(curve.epoch_of(event.position), event.text) for event in curve.events]


@pytest.mark.parametrize(
    "line",
    [
        "step step_size=3 warmup=2",
        "cosine floor=0.01",
        "sgdr T_0=1epoch T_mult=2 by=step warmup=1epoch",
        "onecycle by=step",
    ],
)
def test_it_is_what_a_run_does(line):
    curve = curve_of(f"schedule {line}", steps_per_epoch=4)
    model = TinyNet()
    optimizer = surgery.build_optimizer(model, RULES)
    schedule = surgery.build_schedule(optimizer, f"schedule {line}", epochs=7, steps_per_epoch=4)
    for position in range(len(curve.factors)):
        for curve_group, group in zip(curve.groups, optimizer.param_groups, strict=True):
            assert curve_group.name == group["name"]
            assert curve_group.lr * curve.factors[position] == group["lr"]
        optimizer.step()
        schedule.step()


def test_nothing_is_touched_and_chance_least_of_all():
    state = torch.get_rng_state()
    curve_of("schedule cosine")
    assert torch.equal(torch.get_rng_state(), state)


class TestEvents:
    def test_restarts_at_1_and_3_and_an_end_at_7(self):
        curve = curve_of("schedule sgdr T_0=1 T_mult=2")
        assert curve.restarts == (1, 3)
        assert not any("within a cycle" in note for note in curve.notes)

    def test_a_cycle_that_the_run_cuts_is_said(self):
        curve = curve_of("schedule sgdr T_0=1 T_mult=2", epochs=9)
        assert curve.restarts == (1, 3, 7)
        assert "the run ends within a cycle, after 2 of its 8 epochs" in curve.notes

    def test_by_step_restarts_may_lie_within_an_epoch(self):
        curve = curve_of("schedule sgdr T_0=6 by=step", epochs=4, steps_per_epoch=4)
        assert curve.restarts == (1.5, 3.0)

    def test_everything_in_order(self):
        assert told(curve_of("schedule multistep milestones=1,3 gamma=0.5 warmup=2")) == [
            (2, "warm-up ends"),
            (2, "blocks unfreezes"),
            (3, "learning rates x 0.5"),
            (5, "learning rates x 0.5"),
        ]

    def test_the_peak_of_one_cycle(self):
        curve = curve_of("schedule onecycle by=step", epochs=10, steps_per_epoch=10)
        assert (2.9, "peak") in told(curve)
        assert curve.factors[29] == max(curve.factors)


class TestGroups:
    def test_frozen_groups_have_no_rate_yet_or_ever(self):
        curve = curve_of("schedule exponential gamma=0.5", epochs=4)
        by_name = {group.name: group for group in curve.groups}
        rates = [curve.rate(by_name["blocks"], position) for position in range(4)]
        assert rates == [None, None, 0.25e-4, 0.125e-4]
        assert set(by_name) == {"bn", "blocks", "fc"}
        assert "frozen, so without a learning rate: stem.weight" in curve.notes

    def test_never_unfrozen_in_this_run(self):
        curve = curve_of("schedule cosine", epochs=2)
        assert "never unfrozen in 2 epochs: blocks" in curve.notes


class TestNotes:
    def test_a_plateau_cannot_be_foreseen(self):
        curve = curve_of("schedule plateau warmup=2 warmup_from=0.5", epochs=5)
        assert curve.factors == pytest.approx((0.5, 0.75, 1, 1, 1))
        assert "goes by a metric that only the run will know" in curve.notes[0]

    def test_without_a_line_rates_stay(self):
        curve = curve_of()
        assert set(curve.factors) == {1.0}
        assert curve.schedule is None
        assert "there is no schedule line: every learning rate stays as it is" in curve.notes


class TestErrors:
    def test_of_the_line(self):
        with pytest.raises(RuleError, match="<rules>:5: a warm-up of 9 leaves nothing"):
            curve_of("schedule cosine warmup=9")

    def test_of_the_run(self):
        with pytest.raises(TrainingError, match="epochs: expected a whole number from 1"):
            curve_of("schedule cosine", epochs=0)

    def test_of_an_optimizer_that_makes_its_own_rates(self):
        rules = "base optimizer=timm:adafactor\nstem freeze\n"
        with pytest.raises(TrainingError, match=r"timm:adafactor makes its own .* base lr="):
            curve_of("schedule cosine", rules=rules)
        optimizer = surgery.build_optimizer(TinyNet(), rules)
        with pytest.raises(TrainingError, match="expected finite learning rates from 0"):
            surgery.build_schedule(optimizer, "schedule cosine", epochs=3)
        record = surgery.Recorder(optimizer).step(loss=1)
        assert all(map(math.isnan, record.rates))


class TestReport:
    def test_json(self):
        curve = curve_of("schedule sgdr T_0=1epoch T_mult=2 by=step", steps_per_epoch=3)
        told = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
        assert told["restarts"] == [1.0, 3.0]
        assert len(told["factors"]) == 21
        assert told["groups"][1]["rates"][:3] == [None, None, 0.5e-4]

    def test_a_row_where_something_happens(self):
        text = str(curve_of("schedule sgdr T_0=1 T_mult=2 floor=0.01", epochs=70))
        rows = {row.split()[0]: row for row in text.splitlines() if row.startswith("  ")}
        assert rows["1"].endswith("restart")
        assert rows["2"].endswith("blocks unfreezes")
        assert {"0", "63", "69"} < rows.keys()
        assert len(text.splitlines()) < 40

    def test_many_events_are_thinned_and_counted(self):
        text = str(curve_of("schedule step step_size=1 gamma=0.99", epochs=300))
        assert len(text.splitlines()) < 50
        assert "other events between these rows" in text

    def test_many_curves_show_the_lowest_and_the_highest(self):
        rules = ":all lr=1e-6..1e-2\nbn lr=1\nblocks.0.1 lr=2\nblocks.1.1 lr=3"
        text = str(curve_of("schedule cosine", rules=f"base optimizer=sgd\n{rules}\n"))
        header = next(row for row in text.splitlines() if "what happens" in row)
        assert "stem.weight" in header
        assert "blocks.1.1" in header
        assert "fc" not in header


class TestPlot:
    @pytest.fixture
    def curve(self):
        return curve_of("schedule sgdr T_0=1epoch T_mult=2 by=step", steps_per_epoch=9)

    def test_formats(self, curve, tmp_path):
        for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
            plot_schedule(curve, tmp_path / f"lr{suffix}")
            assert (tmp_path / f"lr{suffix}").read_bytes().startswith(start)

    def test_what_is_in_it(self, curve, tmp_path, monkeypatch):
        import matplotlib

        monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
        plot_schedule(curve, tmp_path / "lr.svg")
        words = [e.text for e in ElementTree.parse(tmp_path / "lr.svg").iter() if e.text]
        for word in ("bn", "blocks", "fc", "restart", "unfreezing", "epoch", "learning rate"):
            assert word in words

    @pytest.mark.parametrize("line", ["cosine", "plateau", "onecycle warmup=2", ""])
    def test_rates_of_0_and_missing_lines(self, line, tmp_path):
        plot_schedule(curve_of(line and f"schedule {line}"), tmp_path / "lr.png")

    def test_an_unknown_format(self, curve, tmp_path):
        with pytest.raises(TrainingError, match="no picture format"):
            plot_schedule(curve, tmp_path / "lr.txt")
        assert list(tmp_path.iterdir()) == []

    def test_without_matplotlib(self, curve, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        with pytest.raises(TrainingError, match="pip install"):
            plot_schedule(curve, tmp_path / "lr.png")
