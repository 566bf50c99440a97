"""``schedule_curve``: every group's learning rate over a whole run, without training anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.errors import TrainingError
from surgery.showing import Shown
from surgery.training.reference import Reference, count_durations, warmup_units
from surgery.tuning import Group, ParamGroups
from surgery.tuning.schedule_line import ScheduleLine, Unit
from surgery.wording import listed


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens when a unit starts: ``restart``, ``warm-up ends``, ``fc unfreezes``.

    ``kind`` is ``"warmup"``, ``"restart"``, ``"drop"``, ``"peak"`` or ``"unfreeze"``.
    """

    position: int
    kind: str
    text: str


@dataclass(frozen=True)
class ScheduleCurve(Shown):
    """The learning rates of a run of ``epochs`` times ``steps_per_epoch`` steps.

    ``factors`` are, for each unit of ``by``, the share of its own learning rate that every group
    has. ``groups`` are those that train. ``events`` are in the order of their positions, which
    count units. ``schedule`` is the line, None where learning rates stay as they are. ``notes`` say
    what the curve cannot show.
    """

    schedule: str | None
    kind: str | None
    by: Unit
    epochs: int
    steps_per_epoch: int
    factors: tuple[float, ...]
    groups: tuple[Group, ...]
    events: tuple[Event, ...]
    notes: tuple[str, ...] = ()

    @property
    def units_per_epoch(self) -> int:
        """Entries of ``factors`` in an epoch: 1, or the steps."""
        return 1 if self.by == "epoch" else self.steps_per_epoch

    @property
    def restarts(self) -> tuple[float, ...]:
        """The epochs at which a cycle starts again; fractions inside an epoch."""
        return tuple(self.epoch_of(e.position) for e in self.events if e.kind == "restart")

    def epoch_of(self, position: int) -> float:
        """The epochs that have passed when a unit starts."""
        return position / self.units_per_epoch

    def rate(self, group: Group, position: int) -> float | None:
        """The group's learning rate during a unit; None while it is frozen."""
        if self.epoch_of(position) < group.first_epoch:
            return None
        return group.lr * self.factors[position]

    def to_dict(self) -> dict[str, Any]:
        """The curve as JSON values; a group's ``rates`` are those at the start of each epoch."""
        starts = range(0, len(self.factors), self.units_per_epoch)
        return {
            **vars(self),
            "groups": [
                {
                    "name": group.name,
                    "lr": group.lr,
                    "when": group.when,
                    "rates": [self.rate(group, start) for start in starts],
                }
                for group in self.groups
            ],
            "events": [
                {"epoch": self.epoch_of(e.position), "kind": e.kind, "text": e.text}
                for e in self.events
            ],
            "restarts": self.restarts,
        }


def schedule_curve(groups: ParamGroups, *, epochs: int, steps_per_epoch: int = 1) -> ScheduleCurve:
    r"""What :func:`surgery.build_schedule` would do to these groups, on nothing but numbers.

    By the schedule line of the groups' own rules; where they have none every learning rate stays
    what it is. A plateau goes by a metric that only the run will know: its curve is the one that
    nothing has reduced yet, and a note says so.

    >>> rules = "base optimizer=sgd\nschedule sgdr T_0=1 T_mult=2"
    >>> curve = schedule_curve(resolve_groups(model, rules), epochs=7)
    >>> curve.restarts, curve.factors[:4]
    ((1.0, 3.0), (1.0, 1.0, 0.5, 1.0))
    """
    if unknown := [group.name for group in groups.trained if math.isnan(group.lr)]:
        raise TrainingError(
            f"{listed(unknown)}: {groups.optimizer} makes its own learning rate, and has none to "
            "show: base lr=... gives it one"
        )
    line = groups.rules.schedule
    if line is not None:
        line = count_durations(line, epochs, steps_per_epoch)
    by: Unit = line.by if line else "epoch"
    per_epoch = 1 if by == "epoch" else steps_per_epoch
    factors = _factors(line, epochs * per_epoch) if line else (1.0,) * (epochs * per_epoch)
    turns = [*_turns(line, factors)] if line else []
    events = [*turns, *_unfreezings(groups.trained, epochs, per_epoch)]
    return ScheduleCurve(
        schedule=line.text if line else None,
        kind=line.kind if line else None,
        by=by,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        factors=factors,
        groups=groups.trained,
        events=tuple(sorted(events, key=lambda event: event.position)),
        notes=tuple(_notes(line, groups, epochs, len(factors), turns)),
    )


def _factors(line: ScheduleLine, units: int) -> tuple[float, ...]:
    """The factor of each unit."""
    reference = Reference(line)
    # What a plateau does after its warm-up hangs on a metric that nobody has yet.
    foreseen = warmup_units(line) if line.kind == "ReduceLROnPlateau" else units
    factors: list[float] = []
    for position in range(units):
        factors.append(reference.factor)
        if position < foreseen:
            reference.advance()
    return tuple(factors)


def _turns(line: ScheduleLine, factors: Sequence[float]) -> Iterator[Event]:
    """Where the course of a schedule turns."""
    warmup = warmup_units(line)
    if 0 < warmup < len(factors):
        yield Event(warmup, "warmup", "warm-up ends")
    if line.kind == "OneCycleLR":
        yield Event(factors.index(max(factors)), "peak", "peak")
    gamma = dict(line.settings).get("gamma", 0.1)
    for position in range(warmup + 1, len(factors)):
        if line.kind == "CosineAnnealingWarmRestarts" and factors[position] == factors[warmup]:
            yield Event(position, "restart", "restart")
        if line.kind in ("StepLR", "MultiStepLR") and factors[position] != factors[position - 1]:
            yield Event(position, "drop", f"learning rates x {gamma:g}")


def _unfreezings(groups: Iterable[Group], epochs: int, units_per_epoch: int) -> Iterator[Event]:
    """One event for each epoch in which groups start to train."""
    starting: dict[int, list[str]] = {}
    for group in groups:
        if 0 < group.first_epoch < epochs:
            starting.setdefault(int(group.first_epoch), []).append(group.name)
    for epoch, names in starting.items():
        verb = "unfreezes" if len(names) == 1 else "unfreeze"
        yield Event(epoch * units_per_epoch, "unfreeze", f"{listed(names)} {verb}")


def _notes(
    line: ScheduleLine | None,
    groups: ParamGroups,
    epochs: int,
    units: int,
    turns: Sequence[Event],
) -> Iterator[str]:
    if line is None:
        yield "there is no schedule line: every learning rate stays as it is"
    elif line.kind == "ReduceLROnPlateau":
        yield (
            "ReduceLROnPlateau goes by a metric that only the run will know: "
            "this is the learning rate before anything has reduced it"
        )
    elif line.kind == "CosineAnnealingWarmRestarts":
        # A run that ends within a cycle ends at a learning rate that was to come down further.
        settings = dict(line.settings)
        restarts = [event.position for event in turns if event.kind == "restart"]
        passed = units - (restarts[-1] if restarts else warmup_units(line))
        length = settings["T_0"] * settings.get("T_mult", 1) ** len(restarts)
        if passed < length:
            yield f"the run ends within a cycle, after {passed} of its {length} {line.by}s"
    late = [group.name for group in groups.trained if group.first_epoch >= epochs]
    if late:
        yield f"never unfrozen in {epochs} epochs: {', '.join(late)}"
    frozen = [group.name for group in groups.groups if group.frozen]
    if frozen:
        yield f"frozen, so without a learning rate: {', '.join(frozen)}"
