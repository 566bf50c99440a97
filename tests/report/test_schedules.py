from torch import nn

import surgery
from surgery.report import report_of
from surgery.training.curve import schedule_curve

NAMES = ["embeddings", "first_stage", "second_stage", "third_stage", "classifier"]


def test_the_course_of_many_groups_can_be_read_on_a_narrow_terminal():
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in NAMES})
    rules = ["base optimizer=sgd", *(f"{name} lr=1e-{at}" for at, name in enumerate(NAMES, 2))]
    rules += ["classifier unfreeze@7", "schedule sgdr T_0=1epoch T_mult=2 by=step"]
    groups = surgery.resolve_groups(model, "\n".join(rules) + "\n")
    report = report_of(schedule_curve(groups, epochs=30, steps_per_epoch=100))
    *lines, _ = report.text(80).partition("\n\nnote: ")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert "..." not in "".join(lines)
    (unfreezing,) = [line for line in lines if " 700 " in line]
    _, _, _, first, last, what = unfreezing.split(maxsplit=5)
    assert (first, last) == ("0.01", "1e-06")
    assert what.startswith("restart;")
    assert any("unfreezes" in line for line in lines)
    assert "(too narrow to show 'first_stage.weight', 'second_stage.weight'," in report.text(80)
    assert all(name in report.text() for name in NAMES)
