from surgery.report import report_of
from surgery.training.curve import Event, GroupCurve, ScheduleCurve

NAMES = ["conv1..layer2", "layer2..layer3", "layer3..layer4", "layer4.1 & :1d", "fc & !:norm"]


def curve(groups):
    return ScheduleCurve(
        schedule="sgdr T_0=1epoch T_mult=2 by=step",
        kind="sgdr",
        by="step",
        epochs=30,
        steps_per_epoch=100,
        factors=(1.0,) * 3000,
        groups=tuple(groups),
        events=(Event(700, "unfreeze", "fc & !:norm unfreezes"), Event(700, "restart", "restart")),
    )


def test_the_course_of_many_groups_can_be_read_on_a_narrow_terminal():
    groups = [GroupCurve(name, 10.0**-at, "train") for at, name in enumerate(NAMES, start=2)]
    text = report_of(curve(groups)).text(80)
    *lines, note = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "..." not in text.partition("learning rates")[2].replace("..layer", "")
    (unfreezing,) = [line for line in lines if " 700 " in line]
    assert unfreezing.split(maxsplit=5)[3:] == ["0.01", "1e-06", "fc & !:norm unfreezes;"]
    assert "too narrow to show 'layer2..layer3', 'layer3..layer4', 'layer4.1 & :1d';" in note
    assert all(name in report_of(curve(groups)).text() for name in NAMES)


def test_a_run_of_no_group_is_shown():
    assert "factor" in report_of(curve([])).text(80)
