"""Plans and outcomes of transfers."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from surgery.report.folding import TENSORS, collapsed, collapsed_rows, first_pattern, patterns
from surgery.report.tables import Column, Report, Table, pairs_table
from surgery.report.texts import broken_notes, counted
from surgery.transfers.refusal import hints_for

if TYPE_CHECKING:
    from surgery.matching.matches import RefusedGroup
    from surgery.transfers.outcome import TransferOutcome
    from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load, Step, TransferPlan, Unused


def plan_report(plan: TransferPlan, *, heading: Sequence[str] = ()) -> Report:
    """Counts and the loaded share first, then what stays fresh, what is unused, what is loaded."""
    return Report(
        headline=(*heading, _share(plan, "would be loaded")),
        tables=_plan_tables(plan),
        notes=_plan_notes(plan),
    )


def outcome_report(outcome: TransferOutcome, *, heading: Sequence[str] = ()) -> Report:
    """The plan's tables in the past tense, and what the casts broke."""
    return Report(
        headline=(*heading, _share(outcome.plan, "loaded")),
        tables=_plan_tables(outcome.plan),
        notes=(*broken_notes(outcome.overflowed), *_plan_notes(outcome.plan)),
    )


def _share(plan: TransferPlan, verb: str) -> str:
    loaded = len(plan.names("loaded")) + len(plan.names("adapted"))
    fresh = len(plan.names("fresh"))
    return (
        f"{loaded:,} of {len(plan.steps):,} tensors and {plan.loaded_fraction:.2%} of the "
        f"parameters {verb}; {fresh:,} {'stays' if fresh == 1 else 'stay'} fresh, "
        f"{len(plan.unused) + len(plan.unread):,} of the source unused"
    )


def _plan_notes(plan: TransferPlan) -> tuple[str, ...]:
    casts = tuple(
        f"cast {cast}: {counted(count, 'tensor')}" for cast, count in sorted(plan.casts.items())
    )
    ties = tuple(f"tied, one tensor: {' = '.join(names)}" for names in plan.ties)
    return (*casts, *ties, *hints_for(plan.refused))


def _plan_tables(plan: TransferPlan) -> tuple[Table, ...]:
    from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load

    fresh = [step for step in plan.steps if isinstance(step, KeepInit)]
    loaded = [step for step in plan.steps if isinstance(step, Load | Assemble)]
    adapted = [step for step in plan.steps if isinstance(step, Adapt)]
    return (
        _fresh_table(fresh),
        _refused_table(plan.refused),
        _adapted_table(adapted),
        _unused_table(plan.unused),
        pairs_table("in the source, and not read", plan.unread),
        _loaded_table(loaded),
    )


def _fresh_table(steps: Sequence[KeepInit]) -> Table:
    rows = collapsed_rows((step.target, step.reason) for step in steps)
    return Table("fresh", (*TENSORS, Column("why")), rows, "new")


def _refused_table(groups: Sequence[RefusedGroup]) -> Table:
    """A row for all groups that are alike but for the number of their block."""
    alike: dict[Hashable, list[RefusedGroup]] = {}
    for group in groups:
        words = [tuple(map(_words, names)) for names in (group.targets, group.sources)]
        alike.setdefault((*words, group.reason), []).append(group)
    columns = (
        Column("target"),
        Column("groups", number=True),
        Column("is one of"),
        Column("why"),
    )
    rows = tuple(
        (
            patterns(name for group in found for name in group.targets),
            str(len(found)),
            patterns(name for group in found for name in group.sources),
            found[0].reason,
        )
        for found in alike.values()
    )
    return Table("left open", columns, rows, "odd")


def _unused_table(unused: Sequence[Unused]) -> Table:
    rows = collapsed_rows((u.source, u.reason) for u in unused)
    return Table("unused in the source", (*TENSORS, Column("why")), rows, "odd")


def _adapted_table(steps: Sequence[Adapt]) -> Table:
    references = {_how(step): step.reference for step in steps}
    rows = tuple(
        (*row, references[row[-1]])
        for row in collapsed_rows((step.target, _how(step)) for step in steps)
    )
    return Table("adapted", (*TENSORS, Column("how"), Column("after", spare=True)), rows, "new")


def _how(step: Adapt) -> str:
    via = f" ({', '.join(step.via)})" if step.via else ""
    return f"{step.adapter}: {step.reason}{via}"


def _loaded_table(steps: Sequence[Load | Assemble]) -> Table:
    sources = {step.target.name: tuple(_parts(step)) for step in steps}
    folded = collapsed((step.target, (step.reason, _kinship(step))) for step in steps)
    rows = tuple(
        (pattern, str(len(names)), shape, _origins({name: sources[name] for name in names}, how))
        for pattern, names, shape, (how, _) in folded
    )
    return Table("loaded", (*TENSORS, Column("from")), rows, "good")


#: Parts of a tensor that are told one by one; more are the rows of heads, a few at a time.
_MOST_PARTS = 4


def _parts(step: Load | Assemble) -> Iterator[str]:
    """Names of what a tensor is made of, from top to bottom, 0 for zeros."""
    from surgery.transfers.plan import Load

    if isinstance(step, Load) or len(step.operation.pieces) > _MOST_PARTS:
        yield from (source.name for source in step.sources)
    else:
        for piece in step.operation.pieces:
            yield piece.source.name if piece.source else "0"


_NUMBER = re.compile(r"\d+")
_MOST_NUMBERS = 32


def _kinship(step: Load | Assemble) -> Hashable:
    """How the source's name follows from the target's: its words, and how its numbers differ.

    Names of one row have it in common, so that no row hides what goes where: ``fc1`` to ``fc2``
    and ``fc2`` to ``fc1`` are two rows.
    """
    if all(source.name == step.target.name for source in step.sources):
        return ()
    numbers = _numbers(step.target.name)
    return tuple((_words(s.name), *_offsets(numbers, _numbers(s.name))) for s in step.sources)


def _words(name: str) -> str:
    return _NUMBER.sub("#", name.rpartition(".")[0])


def _numbers(name: str) -> list[int]:
    return [int(text) for text in _NUMBER.findall(name)[:_MOST_NUMBERS] if len(text) < 19]


def _offsets(target: Sequence[int], source: Sequence[int]) -> Iterator[int]:
    """Differences, number by number; what the target has no number beside, as it is."""
    yield from (old - new for old, new in zip(source, target, strict=False))
    yield from source[len(target) :]


def _origins(sources: dict[str, tuple[str, ...]], how: str) -> str:
    """Where a row's tensors come from: target name -> source names, of which most have one."""
    if all(len(names) == 1 for names in sources.values()):
        return _origin({new: old for new, (old,) in sources.items()}, how)
    places = zip_longest(*sources.values())
    columns = [first_pattern(filter(None, names)) for names in places]
    return f"{' + '.join(columns)} ({how})"


def _origin(source: dict[str, str], how: str) -> str:
    """Where a row's tensors come from, as short as it can be told: target name -> source name."""
    if all(old == new for new, old in source.items()):
        return f"same name{how and f', {how}'}"
    prefixes = {old.removesuffix(f".{new}") for new, old in source.items()}
    if len(prefixes) == 1 and len(source) > 1 and not prefixes & set(source.values()):
        return f"{prefixes.pop()}.*{how and f' ({how})'}"
    if how.startswith("prefix"):
        return how
    return f"{first_pattern(source.values())}{how and f' ({how})'}"


def origin_report(plan: TransferPlan, selector: str) -> Report:
    """Where the selected target tensors come from, and every reason for it.

    Raises :class:`~surgery.errors.SelectorError` for a selector that selects none.
    """
    columns = (Column("tensor"), Column("comes from"), Column("because"))
    rows = tuple((step.target.name, *_origin_cells(step)) for step in plan.select(selector))
    return Report((selector,), (Table("where it comes from", columns, rows),))


def _origin_cells(step: Step) -> tuple[str, str]:
    from surgery.transfers.plan import Adapt, KeepInit

    sources = " + ".join(source.name for source in step.sources)
    match step:
        case KeepInit():
            return "nowhere: it stays fresh", step.reason
        case Adapt():
            return sources, _how(step)
    why = "; ".join(step.evidence)
    return sources, "; ".join(filter(None, (step.reason, why))) or "the same name"
