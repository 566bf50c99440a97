"""When a plan is not good enough to be done, and the likely cause in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from surgery.errors import SurgeryError, TransferRefused
from surgery.matching.matches import RefusedGroup
from surgery.transfers.plan import Adapt, KeepInit, TransferPlan, shape_text


def check(plan: TransferPlan, min_loaded: float, strict: bool, keep_open: bool) -> None:
    """Raise as :meth:`~surgery.transfers.plan.TransferPlan.refuse_unless` does."""
    if not 0 <= min_loaded <= 1:
        raise SurgeryError(f"min_loaded is a share from 0 to 1, not {min_loaded}")
    if not any(step.status != "fresh" for step in plan.steps):
        raise TransferRefused(
            "not one tensor of the source fits the target; nothing was changed",
            _why_so_little(plan),
        )
    if plan.loaded_fraction < min_loaded:
        raise TransferRefused(
            f"only {plan.loaded_fraction * 100:.4g}% of the parameters would be loaded, and at "
            f"least {min_loaded * 100:.4g}% was asked for (min_loaded); nothing was changed",
            _why_so_little(plan),
        )
    if plan.refused and not keep_open:
        count = sum(len(group.targets) for group in plan.refused)
        raise TransferRefused(
            f"structure leaves {_groups(plan)} of {count} tensors open; nothing was changed",
            [
                *first_lines([str(group) for group in plan.refused], 5),
                *hints_for(plan.refused),
                "or accept that they keep their initial values (keep_open, --keep-open)",
            ],
        )
    if strict and (differences := _differences_of(plan)):
        raise TransferRefused(
            f"strict: {len(differences)} tensors differ between source and target; "
            "nothing was changed",
            first_lines(differences, 10),
        )


def _differences_of(plan: TransferPlan) -> list[str]:
    fresh = [
        f"target {step.target.name}: {step.reason}"
        for step in plan.steps
        if isinstance(step, KeepInit) and not step.expected
    ]
    adapted = [
        f"target {step.target.name}: adapted, {step.reason}; name {step.adapter} to accept it"
        for step in plan.steps
        if isinstance(step, Adapt) and not step.chosen
    ]
    unused = [f"source {u.source.name}: {u.reason}" for u in plan.unused if not u.expected]
    return [
        *fresh,
        *adapted,
        *unused,
        *(f"source {name}: {reason}" for name, reason in plan.unread),
    ]


def _why_so_little(plan: TransferPlan) -> list[str]:
    """First names of both sides, then the likely cause."""
    fresh = [s for s in plan.steps if isinstance(s, KeepInit)]
    return [
        *first_lines(
            [f"target wants {s.target.name} {shape_text(s.target)}: {s.reason}" for s in fresh], 5
        ),
        *first_lines(
            [f"source has   {u.source.name} {shape_text(u.source)}" for u in plan.unused], 5
        ),
        f"likely cause: {_likely_cause(plan, fresh)}",
    ]


def _likely_cause(plan: TransferPlan, fresh: Sequence[KeepInit]) -> str:
    if plan.refused:
        return f"structure leaves {_groups(plan)} open; settle what is meant by hints (--hint)"
    if different := next((s for s in fresh if s.reason.startswith("not taken for one")), None):
        return f"two networks: {different.reason}"
    misfits = [step for step in fresh if step.source is not None]
    if not plan.unused and not misfits:
        return "the source holds only a part of the target; lower min_loaded to accept that"
    if len(misfits) > len(fresh) / 2:
        return "the names agree but the shapes do not: another size of the same architecture"
    if any(step.reason.startswith("ambiguous") for step in fresh):
        return "several networks fit; rename the ones that are not meant away (--map)"
    if swap := _common_swap(plan, fresh):
        old, new = swap
        return f"another nesting; a rename file with the line '{old} -> {new}' would match more"
    source_shapes = Counter(unused.source.shape for unused in plan.unused)
    target_shapes = Counter(step.target.shape for step in fresh)
    shared = (source_shapes & target_shapes).total()
    if shared > 0.8 * len(fresh):
        return (
            "the same shapes under other names: another implementation of this architecture; "
            "match='structure' (--match structure) brings two of one network together"
        )
    return "the source is another architecture, or another state dict inside the file (--key)"


def hints_for(groups: Sequence[RefusedGroup]) -> list[str]:
    """How to settle what stayed open: how fused rows lie, and the names of the first group."""
    hints = [
        f"a hint says how fused rows lie: --hint '{name} = q, k, v' for three blocks, or "
        f"--hint '{name} = 8 x (q, k, v)' for 8 heads one after the other"
        for name in dict.fromkeys(group.fused for group in groups if group.fused)
    ]
    for group in [group for group in groups if not group.fused][:1]:
        ours, theirs = _telling_parts(group.sources), _telling_parts(group.targets)
        hints.append(
            f"a hint pairs two of them: --hint 'A = B', where A is {' or '.join(ours)}, and B is "
            f"{' or '.join(theirs)}; nothing here says which"
        )
    return hints


def _telling_parts(names: Sequence[str]) -> list[str]:
    """For each of a few layers a segment of its path that no other has, or else the whole path."""
    paths = list(dict.fromkeys(tuple(name.split(".")[:-1]) for name in names))
    counts = Counter(segment for path in paths for segment in {*path})
    told = [
        next((s for s in path if counts[s] == 1 and not s.isdecimal()), ".".join(path))
        for path in paths
    ]
    return [*told[:4], *(["..."] if len(told) > 4 else [])]


def _groups(plan: TransferPlan) -> str:
    return "1 group" if len(plan.refused) == 1 else f"{len(plan.refused)} groups"


def _common_swap(plan: TransferPlan, fresh: Sequence[KeepInit]) -> tuple[str, str] | None:
    """The (source prefix, target prefix) whose exchange would match the most names, if many."""
    enough = max(2, len(fresh) / 2)
    heads = Counter(step.target.name.partition(".")[0] for step in fresh)
    by_suffix: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for step in fresh:
        head, _, tail = step.target.name.partition(".")
        if heads[head] >= enough:  # two at most, or else 100,000 modules would meet 100,000
            by_suffix.setdefault((tail, step.target.shape), []).append(head)
    swaps = Counter(
        (head, target_head)
        for unused in plan.unused
        for head, _, tail in [unused.source.name.partition(".")]
        for target_head in by_suffix.get((tail, unused.source.shape), ())
        if tail and head != target_head
    )
    if not swaps:
        return None
    (swap, count), *_ = swaps.most_common(1)
    return swap if count >= enough else None


def first_lines(lines: Sequence[str], count: int) -> list[str]:
    """The first lines, and how many more there are."""
    rest = len(lines) - count
    return [*lines[:count], *([f"... and {rest} more"] if rest > 0 else [])]
