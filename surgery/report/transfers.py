"""Plans and outcomes of transfers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from surgery.collapse import counterpart, patterns, template
from surgery.matching.matches import OpenGroup
from surgery.matching.recipes.recipe import Joined
from surgery.report import report_of
from surgery.report.folding import TENSORS, broken_notes, fold_tensors, tensor_rows
from surgery.report.tables import Column, Report, Table, text_table
from surgery.showing import Shown
from surgery.transfers.plan import TransferOutcome, TransferPlan
from surgery.transfers.refusal import hints_for, needless
from surgery.transfers.step import Step, Unused
from surgery.wording import counted, percent_text


@report_of.register(TransferPlan)
def plan_report(plan: TransferPlan, *, heading: Sequence[str] = ()) -> Report:
    """Counts and the loaded share first, then what stays fresh, what is unused, what is loaded."""
    return Report(
        headline=(*heading, _share(plan, "would be loaded")),
        tables=_plan_tables(plan),
        notes=_plan_notes(plan),
    )


@report_of.register(TransferOutcome)
def outcome_report(outcome: TransferOutcome, *, heading: Sequence[str] = ()) -> Report:
    """The plan's tables in the past tense, and what the casts broke."""
    return Report(
        headline=(*heading, _share(outcome.plan, "loaded")),
        tables=_plan_tables(outcome.plan),
        notes=(*broken_notes(outcome.overflowed), *_plan_notes(outcome.plan)),
    )


def _share(plan: TransferPlan, verb: str) -> str:
    fresh = len(plan.names("fresh", "open"))
    return (
        f"{len(plan.steps) - fresh:,} of {len(plan.steps):,} tensors and "
        f"{percent_text(plan.loaded_fraction)} of the parameters {verb}; "
        f"{fresh:,} {'stays' if fresh == 1 else 'stay'} fresh, "
        f"{len(plan.unused) + len(plan.unread):,} of the source unused"
    )


def _plan_notes(plan: TransferPlan) -> tuple[str, ...]:
    casts = tuple(
        f"cast {cast}: {counted(count, 'tensor')}" for cast, count in sorted(plan.casts.items())
    )
    ties = tuple(f"tied, one tensor: {' = '.join(names)}" for names in plan.ties)
    return (*casts, *ties, *needless(plan), *hints_for(plan.open))


def _plan_tables(plan: TransferPlan) -> tuple[Table, ...]:
    by_state: dict[str, list[Step]] = {}
    for step in plan.steps:
        by_state.setdefault(step.state, []).append(step)
    return (
        _fresh_table(by_state.get("fresh", ()), set(plan.head)),
        _open_table(plan.open),
        _resized_table(by_state.get("resized", ())),
        _unused_table(plan.unused),
        text_table("in the source, and not read", ("name", "why"), plan.unread),
        _taken_table("computed", by_state.get("computed", ()), "new"),
        _taken_table("loaded", by_state.get("loaded", ()), "good"),
    )


def _fresh_table(steps: Sequence[Step], head: set[str]) -> Table:
    rows = tensor_rows(
        (step.target, f"{step.reason}{' (the head)' * (step.target.name in head)}")
        for step in steps
    )
    return Table("fresh", (*TENSORS, Column("why")), rows, "new")


def _open_table(groups: Sequence[OpenGroup]) -> Table:
    """A row for all groups that differ only in the numbers of their blocks."""
    kinds: dict[Hashable, list[OpenGroup]] = {}
    for group in groups:
        names = tuple(tuple(map(template, names)) for names in (group.targets, group.sources))
        kinds.setdefault((names, group.reason), []).append(group)
    columns = (
        Column("target"),
        Column("groups", number=True),
        Column("is one of"),
        Column("why"),
    )
    rows = tuple(
        (
            patterns(name for group in found for name in group.targets),
            f"{len(found):,}",
            patterns(name for group in found for name in group.sources),
            found[0].reason,
        )
        for found in kinds.values()
    )
    return Table("open", columns, rows, "odd")


def _unused_table(unused: Sequence[Unused]) -> Table:
    rows = tensor_rows((u.source, u.reason) for u in unused)
    return Table("unused in the source", (*TENSORS, Column("why")), rows, "odd")


def _resized_table(steps: Sequence[Step]) -> Table:
    references = {_how(step): step.method.reference for step in steps if step.method}
    rows = tuple(
        (*row, references[row[-1]])
        for row in tensor_rows((step.target, _how(step)) for step in steps)
    )
    return Table("resized", (*TENSORS, Column("how"), Column("after", spare=True)), rows, "new")


def _how(step: Step) -> str:
    return f"{step.method.name}: {step.reason}" if step.method else step.reason


def _taken_table(title: str, steps: Sequence[Step], tone: str) -> Table:
    sources = {step.target.name: _parts(step) for step in steps}
    rows = tuple(
        (*cells, _origins({name: sources[name] for name in names}, how))
        for cells, names, (how, _) in fold_tensors(
            (step.target, (step.reason, _counterparts(step))) for step in steps
        )
    )
    return Table(title, (*TENSORS, Column("from")), rows, tone)


def _counterparts(step: Step) -> Hashable:
    name = step.target.name
    return tuple([counterpart(name, source.name) for source in step.sources])


#: Parts of a tensor that are named one by one; more are the rows of heads, a few at a time.
_MOST_PARTS = 4


def _parts(step: Step) -> tuple[str, ...]:
    """Names of what a tensor is made of, from top to bottom, 0 for zeros."""
    recipe = step.recipe
    if not isinstance(recipe, Joined) or len(recipe.parts) > _MOST_PARTS:
        return tuple([source.name for source in step.sources])
    return tuple(part.sources[0].name if part.sources else "0" for part in recipe.parts)


def _origins(sources: dict[str, tuple[str, ...]], how: str) -> str:
    """Where a row's tensors come from: target name -> source names, of which most have one."""
    if all(len(names) == 1 for names in sources.values()):
        return _origin({new: old for new, (old,) in sources.items()}, how)
    places = zip_longest(*sources.values())
    columns = [patterns(filter(None, names), 1) for names in places]
    return f"{' + '.join(columns)} ({how})"


def _origin(source: dict[str, str], how: str) -> str:
    """The same in as few words as say it, where each has one source."""
    if all(old == new for new, old in source.items()):
        return f"same name{how and f', {how}'}"
    prefixes = {old.removesuffix(f".{new}") for new, old in source.items()}
    if len(prefixes) == 1 and len(source) > 1 and not prefixes & set(source.values()):
        return f"{prefixes.pop()}.*{how and f' ({how})'}"
    if how.startswith("prefix"):
        return how
    return f"{patterns(source.values(), 1)}{how and f' ({how})'}"


@dataclass(frozen=True, slots=True)
class Origins(Shown):
    """Steps of a plan that somebody asks about: those of the tensors that ``selector`` selects."""

    selector: str
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """The steps as JSON values, each with its evidence."""
        return {"steps": [step.to_dict() for step in self.steps]}


@report_of.register(Origins)
def origins_report(origins: Origins, *, heading: Sequence[str] = ()) -> Report:
    """Where each target tensor comes from, which tier decided it, and every reason for it."""
    columns = (Column("tensor"), Column("state"), Column("from"), Column("by"), Column("why"))
    rows = tuple(
        (
            step.target.name,
            step.state,
            " + ".join(source.name for source in step.sources),
            step.evidence.tier,
            "; ".join(filter(None, (_how(step), *step.evidence.because))) or "the same name",
        )
        for step in origins.steps
    )
    return Report((*heading, origins.selector), (Table("sources", columns, rows),))
