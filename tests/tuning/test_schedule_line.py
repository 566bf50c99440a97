import pytest

from surgery.errors import RuleError
from surgery.tuning import parse_rules
from surgery.tuning.schedule_line import Epochs


def schedule_of(text: str):
    return parse_rules(text, path="rules.txt").schedule


def problems(text: str) -> list[tuple[int, str]]:
    with pytest.raises(RuleError) as caught:
        parse_rules(text)
    return [(problem.line, problem.message) for problem in caught.value.problems]


class TestParse:
    def test_the_line_is_a_value_with_its_place(self):
        line = schedule_of("model timm:vit\n\nschedule cosine floor=0.01 warmup=2 # comment")
        assert (line.path, line.line) == ("rules.txt", 3)
        assert line.text == "schedule cosine floor=0.01 warmup=2"
        assert (line.kind, line.settings) == ("CosineAnnealingLR", (("floor", 0.01),))
        assert (line.by, line.warmup, line.warmup_from) == ("epoch", 2, 0.01)

    def test_without_one_there_is_none(self):
        assert schedule_of("fc freeze") is None

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("step step_size=1", "StepLR"),
            ("StepLR step_size=1", "StepLR"),
            ("STEPLR step_size=1", "StepLR"),
            ("multistep milestones=1,2", "MultiStepLR"),
            ("exponential gamma=0.9", "ExponentialLR"),
            ("cosine", "CosineAnnealingLR"),
            ("sgdr T_0=1", "CosineAnnealingWarmRestarts"),
            ("cosineannealingwarmrestarts T_0=1 T_mult=1", "CosineAnnealingWarmRestarts"),
            ("onecycle", "OneCycleLR"),
            ("plateau", "ReduceLROnPlateau"),
        ],
    )
    def test_names(self, name, kind):
        assert schedule_of(f"schedule {name}").kind == kind

    def test_values(self):
        line = schedule_of(
            "schedule onecycle total_steps=90 pct_start=0.25 anneal_strategy=linear "
            "cycle_momentum=False three_phase=true by=step warmup=3epochs warmup_from=0.5"
        )
        assert dict(line.settings) == {
            "total_steps": 90,
            "pct_start": 0.25,
            "anneal_strategy": "linear",
            "cycle_momentum": False,
            "three_phase": True,
        }
        assert (line.by, line.warmup, line.warmup_from) == ("step", Epochs(3), 0.5)

    def test_milestones(self):
        line = schedule_of("schedule multistep milestones=1epoch,3epochs")
        assert dict(line.settings)["milestones"] == (Epochs(1), Epochs(3))

    def test_equal_schedules_have_one_spelling(self):
        one = schedule_of("schedule sgdr T_mult=2 T_0=1 by=epoch")
        other = schedule_of("schedule CosineAnnealingWarmRestarts T_0=1 T_mult=2")
        assert one.canonical == other.canonical
        assert one.canonical != schedule_of("schedule sgdr T_0=1 T_mult=2 warmup=1").canonical

    def test_a_module_called_schedule(self):
        (rule,) = parse_rules("schedule.** lr=0.1").rules
        assert rule.selector.text == "schedule.**"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a schedule's name, found nothing; there are step, multistep, "),
        ("T_0=1", "expected a schedule's name, found 'T_0=1'"),
        ("cosin", "no schedule is called 'cosin'; did you mean cosine?"),
        ("cyclic", "no schedule is called 'cyclic'"),
        ("step", "StepLR needs step_size="),
        ("multistep gamma=1", "MultiStepLR needs milestones="),
        ("exponential", "ExponentialLR needs gamma="),
        ("sgdr T_mult=2", "CosineAnnealingWarmRestarts needs T_0="),
        ("sgdr T_0=0", "T_0: expected a whole number from 1, or 3epochs, found '0'"),
        ("sgdr T_0=-1", "found '-1'"),
        ("sgdr T_0=1.5", "found '1.5'"),
        ("sgdr T_0=epochs", "found 'epochs'"),
        ("sgdr T_0=1 T_mult=0", "T_mult: expected a whole number from 1, found '0'"),
        ("cosine T_max=0", "T_max: expected a whole number from 1"),
        ("cosine T_mx=5", "CosineAnnealingLR has no key 'T_mx'; did you mean T_max?"),
        ("cosine zzz=5", "no key 'zzz'; there are T_max, floor, by, warmup, warmup_from"),
        ("cosine T_max", "expected KEY=VALUE, found 'T_max'"),
        ("cosine T_max=", "expected KEY=VALUE, found 'T_max='"),
        ("cosine T_max=1 T_max=2", "T_max is given twice"),
        (
            "cosine eta_min=1e-6",
            "eta_min is absolute and would change the ratios of learning rates: floor=F",
        ),
        ("plateau min_lr=1e-6", "min_lr is absolute"),
        ("plateau eps=1e-6", "eps is absolute"),
        (
            "onecycle max_lr=1",
            "max_lr is absolute and would change the ratios of learning rates: the peak is each",
        ),
        ("step step_size=3 base_lr=1", "base_lr is absolute"),
        ("step step_size=3 floor=0.1", "StepLR has no key 'floor'"),
        (
            "cosine floor=2",
            "floor: expected a share of each group's learning rate, 0 to 1, found '2'",
        ),
        ("cosine floor=-1", "found '-1'"),
        (
            "cosine floor=nan",
            "floor: expected a share of each group's learning rate, 0 to 1, found 'nan'",
        ),
        ("cosine warmup=0", "warmup: expected a whole number from 1"),
        ("cosine warmup=2 warmup_from=0", "warmup_from: expected a number above 0 and up to 1"),
        ("cosine warmup_from=0.1", "warmup_from= needs warmup="),
        ("cosine by=day", "by: found 'day'; there are epoch, step"),
        ("cosine by=steps", "by: found 'steps'; did you mean step?"),
        ("step step_size=1 gamma=0", "gamma: expected a number above 0, found '0'"),
        ("multistep milestones=3,2", "milestones: expected later and later ones, found 3,2"),
        ("multistep milestones=2,2", "later and later"),
        ("multistep milestones=2,3epochs", "expected one unit for all of them"),
        ("multistep milestones=2,x", "milestones: expected a whole number from 1"),
        ("onecycle pct_start=1", "pct_start: expected a number between 0 and 1, found '1'"),
        ("onecycle div_factor=0.5", "div_factor: expected a number from 1"),
        ("onecycle base_momentum=0.9 max_momentum=0.8", "base_momentum is 0.9 and max_momentum"),
        ("onecycle base_momentum=0.97", "base_momentum is 0.97 and max_momentum 0.95"),
        ("onecycle three_phase=maybe", "three_phase: expected true or false, found 'maybe'"),
        ("plateau factor=1", "factor: expected a number between 0 and 1"),
        ("plateau patience=-1", "patience: expected a whole number from 0"),
        ("plateau threshold=-1", "threshold: expected a finite number from 0"),
        ("plateau mode=mim", "mode: found 'mim'; did you mean min?"),
    ],
)
def test_errors(line, message):
    ((number, told),) = problems(f"# first\nschedule {line}")
    assert number == 2
    assert message in told


def test_everything_wrong_is_told_at_once():
    told = problems("schedule sgdr T_0=0 T_mult=0\nfc freze\nschedule cosine")
    assert [line for line, _ in told] == [1, 1, 2, 3]
    assert "schedule was given in line 1 already" in told[-1][1]
