"""Plans and outcomes of transfers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import zip_longest

from surgery.collapse import counterpart, patterns, template
from surgery.matching.matches import OpenGroup
from surgery.matching.recipes.recipe import Joined
from surgery.report.folding import TENSORS, broken_notes, fold_tensors, tensor_rows
from surgery.report.tables import Column, Report, Table, number
from surgery.states import STATES
from surgery.transfers.plan import TransferOutcome, TransferPlan
from surgery.transfers.refusal import hints_for, needless
from surgery.transfers.step import Step
from surgery.wording import counted, percent_text


def plan_report(plan: TransferPlan) -> Report:
    """Counts and the loaded share first, then what stays fresh, what is unused, what is loaded."""
    return Report([_share(plan, "would be loaded")], _plan_tables(plan), _plan_notes(plan))


def outcome_report(outcome: TransferOutcome) -> Report:
    """The plan's tables in the past tense, and what the casts broke."""
    plan = outcome.plan
    notes = [*broken_notes(outcome.overflowed), *_plan_notes(plan)]
    return Report([_share(plan, "loaded")], _plan_tables(plan), notes)


def _share(plan: TransferPlan, verb: str) -> str:
    fresh = len(plan.names("fresh", "open"))
    return (
        f"{len(plan.steps) - fresh:,} of {len(plan.steps):,} tensors and "
        f"{percent_text(plan.loaded_fraction)} of the parameters {verb}; "
        f"{fresh:,} {'stays' if fresh == 1 else 'stay'} fresh, "
        f"{len(plan.unused) + len(plan.unread):,} of the source unused"
    )


def _plan_notes(plan: TransferPlan) -> list[str]:
    casts = (f"cast {cast}: {counted(n, 'tensor')}" for cast, n in sorted(plan.casts.items()))
    ties = (f"tied, one tensor: {' = '.join(names)}" for names in plan.ties)
    return [*casts, *ties, *needless(plan), *hints_for(plan.open)]


def _plan_tables(plan: TransferPlan) -> list[Table]:
    by_state: dict[str, list[Step]] = {state: [] for state in STATES}
    for step in plan.steps:
        by_state[step.state].append(step)
    fresh = tensor_rows(
        (step.target, f"{step.reason}{' (the head)' * (step.target.name in plan.head)}")
        for step in by_state["fresh"]
    )
    unused = tensor_rows((each.source, each.reason) for each in plan.unused)
    return [
        Table("fresh", (*TENSORS, "why"), fresh, "new"),
        _open_table(plan.open),
        _resized_table(by_state["resized"]),
        Table("unused in the source", (*TENSORS, "why"), unused, "odd"),
        Table("in the source, and not read", ("name", "why"), plan.unread),
        _taken_table("computed", by_state["computed"], "new"),
        _taken_table("loaded", by_state["loaded"], "good"),
    ]


def _open_table(groups: Sequence[OpenGroup]) -> Table:
    """A row for all groups that differ only in the numbers of their blocks."""
    kinds: dict[Hashable, list[OpenGroup]] = {}
    for group in groups:
        names = tuple(tuple(map(template, names)) for names in (group.targets, group.sources))
        kinds.setdefault((names, group.reason), []).append(group)
    rows = [
        (
            patterns(name for group in found for name in group.targets),
            len(found),
            patterns(name for group in found for name in group.sources),
            found[0].reason,
        )
        for found in kinds.values()
    ]
    return Table("open", ("target", number("groups"), "is one of", "why"), rows, "odd")


def _resized_table(steps: Sequence[Step]) -> Table:
    references = {_how(step): step.method.reference for step in steps if step.method}
    rows = [
        (*row, references[str(row[-1])])
        for row in tensor_rows((step.target, _how(step)) for step in steps)
    ]
    return Table("resized", (*TENSORS, "how", Column("after", spare=True)), rows, "new")


def _how(step: Step) -> str:
    return f"{step.method.name}: {step.reason}" if step.method else step.reason


def _taken_table(title: str, steps: Sequence[Step], tone: str) -> Table:
    sources = {step.target.name: _parts(step) for step in steps}
    rows = [
        (*cells, _origins({name: sources[name] for name in names}, how))
        for cells, names, (how, _) in fold_tensors(
            (step.target, (step.reason, _counterparts(step))) for step in steps
        )
    ]
    return Table(title, (*TENSORS, "from"), rows, tone)


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


def origins_report(selector: str, steps: Sequence[Step]) -> Report:
    """Of the tensors that a selector selects: where each comes from, which tier decided it, and
    every reason for it.
    """
    rows = [
        (
            step.target.name,
            step.state,
            " + ".join(source.name for source in step.sources),
            step.evidence.tier,
            "; ".join(filter(None, (_how(step), *step.evidence.because))) or "the same name",
        )
        for step in steps
    ]
    columns = ("tensor", "state", "from", "by", "why")
    return Report([selector], [Table("sources", columns, rows)])
