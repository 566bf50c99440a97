"""Every group's learning rate over a run."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.report.groups import start_text
from surgery.report.tables import Columns, Report, Table, number
from surgery.training.curve import ScheduleCurve
from surgery.tuning import Group
from surgery.wording import counted, value_text

#: Rows that are wanted of a run, apart from what happens in it; events that all get a row; and
#: curves that fit beside each other.
_SAMPLES, _MOST_EVENTS, _MOST_CURVES = 9, 16, 6


def schedule_report(curve: ScheduleCurve) -> Report:
    """Every group's own learning rate, then the run's, above all where something happens."""
    positions, left_out = _shown_positions(curve)
    more = [f"{counted(left_out, 'other event')} between these rows"] if left_out else []
    groups = [(group.name, value_text(group.lr), start_text(group.when)) for group in curve.groups]
    return Report(
        headline=[_run_text(curve)],
        tables=[
            Table("groups", ("group", number("lr"), "trains"), groups, "good"),
            _course_table(curve, positions),
        ],
        notes=[*more, *curve.notes],
    )


def _run_text(curve: ScheduleCurve) -> str:
    run = counted(curve.epochs, "epoch")
    if curve.by == "step":
        run += f" of {counted(curve.steps_per_epoch, 'step')}"
    each = f", a new learning rate each {curve.by}" if curve.schedule else ""
    return f"{curve.schedule or 'no schedule'}: {run}{each}"


def _shown_positions(curve: ScheduleCurve) -> tuple[tuple[int, ...], int]:
    """(the units worth a row, how many events have none)."""
    last = len(curve.factors) - 1
    steps = min(_SAMPLES, curve.epochs)
    sampled = {round(i / steps * curve.epochs) * curve.units_per_epoch for i in range(steps)}
    happening = list(dict.fromkeys(event.position for event in curve.events))
    kept = happening[:: -(-len(happening) // _MOST_EVENTS)] if happening else []
    return tuple(sorted({0, last, *sampled, *kept})), len(happening) - len(kept)


def _course_table(curve: ScheduleCurve, positions: Sequence[int]) -> Table:
    """One row for each position, and one column for each different curve while they fit; of too
    many for a terminal those between the first and the last give way.
    """
    shown = _distinct_curves(curve)
    if len(shown) > _MOST_CURVES:
        shown = dict(sorted(shown.items(), key=lambda item: item[1].lr)[:: len(shown) - 1])
    by_step = curve.by == "step"
    places = ("epoch", "step") if by_step else ("epoch",)
    between = [*shown][1:-1]
    curves = [number(name, spare=name in between) for name in shown]
    columns: Columns = (*map(number, (*places, "factor")), *curves, "what happens")
    happening: dict[int, list[str]] = {}
    for event in curve.events:
        happening.setdefault(event.position, []).append(event.text)
    rows = [
        (
            f"{curve.epoch_of(position):.4g}",
            *((position,) if by_step else ()),
            f"{curve.factors[position]:.4g}",
            *(_lr_text(curve.rate(group, position)) for group in shown.values()),
            "; ".join(happening.get(position, ())),
        )
        for position in positions
    ]
    return Table("learning rates, each a group's own times the factor", columns, rows)


def _distinct_curves(curve: ScheduleCurve) -> dict[str, Group]:
    """Groups that have one curve share a column, which names the first and counts the others."""
    shared: dict[object, list[Group]] = {}
    for group in curve.groups:
        shared.setdefault((group.lr, group.first_epoch), []).append(group)
    return {
        f"{groups[0].name}{f' +{len(groups) - 1}' if len(groups) > 1 else ''}": groups[0]
        for groups in shared.values()
    }


def _lr_text(lr: float | None) -> str:
    return "frozen" if lr is None else f"{lr:.3g}"
