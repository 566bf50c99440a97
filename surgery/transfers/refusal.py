"""When a plan is not good enough to be done, and which option would load or accept what is left.

By default every tensor outside the head must be given by the source. What is not is grouped by
cause and by subtree, so that one option names a neck or a decoder whole. An option that would load
it is offered where planning with it does load it.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.collapse import patterns
from surgery.errors import SurgeryError, TransferRefused
from surgery.matching.matches import OpenGroup
from surgery.specs import TensorSpec
from surgery.transfers.request import TransferRequest
from surgery.transfers.selecting import names_selected
from surgery.transfers.step import Step
from surgery.transfers.subtrees import covering, whole_subtrees
from surgery.wording import counted, first_lines, percent_text, shape_text
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    from surgery.transfers.plan import TransferPlan


def refuse(plan: TransferPlan) -> None:
    """Raise TransferRefused for what its request does not accept; nothing has been changed."""
    why, details = _problem(plan)
    if why:
        raise TransferRefused(f"{why}; nothing was changed", details)


def _problem(plan: TransferPlan) -> tuple[str, Sequence[str]]:
    """The first reason not to carry the plan out, empty where there is none, and what helps."""
    missing, least = tuple(_missing_steps(plan)), plan.request.min_loaded
    if not _gives_anything(plan):
        return "not one tensor of the source fits the target", _details(plan, missing)
    if least is None and missing:
        but = ", not counting the head's" if plan.head else ""
        why = f"{len(missing)} of {len(plan.steps)} tensors would stay fresh{but}"
        return why, _details(plan, missing)
    if least is not None and plan.loaded_fraction < least:
        missing = tuple(step for step in _unnamed(plan) if step.state == "fresh")
        why = (
            f"only {percent_text(plan.loaded_fraction)} of the parameters would be loaded, less "
            f"than the {least * 100:.4g}% of min_loaded (--min-loaded)"
        )
        return why, _details(plan, missing)
    if groups := _open_groups(plan):
        shown = first_lines([str(group) for group in groups], 5)
        keeping = "--keep-open (keep_open=True) accepts that they keep their initial values"
        return _open_count(groups), [*shown, *_ways(plan, groups), keeping]
    if plan.request.strict and (differences := _differences(plan)):
        why = f"strict: {len(differences)} tensors differ between source and target"
        return why, [*first_lines(differences, 10), *_accepting_differences(plan)]
    return "", ()


def _gives_anything(plan: TransferPlan) -> bool:
    return any(step.recipe for step in plan.steps)


def _missing_steps(plan: TransferPlan) -> Iterator[Step]:
    """Fresh tensors that somebody would miss: outside the head, and not accepted by ``fresh``."""
    accepted = _accepted(plan) | {*plan.head}
    for step in plan.steps:
        if step.state == "fresh" and not step.recomputed and step.target.name not in accepted:
            yield step


def needless(plan: TransferPlan) -> list[str]:
    """What of ``fresh`` names only tensors that the source gives: somebody may have meant more."""
    if not plan.request.fresh:
        return []
    left = {*plan.names("fresh", "open")}
    found = names_selected(plan.target, plan.request.accepted_fresh, plan.head_paths)
    return [
        f"--fresh {shlex.quote(text)} (fresh=) accepts initial values, and all that it names is "
        "given by the source; a mapping line 'NAME -> (unused)' leaves a tensor out"
        for text, names in zip(plan.request.fresh, found, strict=True)
        if left.isdisjoint(names)
    ]


def _accepted(plan: TransferPlan) -> set[str]:
    """The tensors that ``fresh`` names."""
    return set().union(*names_selected(plan.target, plan.request.accepted_fresh, plan.head_paths))


def _details(plan: TransferPlan, missing: Sequence[Step]) -> list[str]:
    """What is left, cause by cause; the options that load it; then those that accept it."""
    causes = [(_pattern(plan, steps), steps) for steps in _causes(missing)]
    lines = [_cause_line(pattern, steps) for pattern, steps in causes]
    lines += _unused_lines(plan)
    lines += _remedies(plan, missing)
    if groups := _open_groups(plan):
        lines += [_open_count(groups), *_ways(plan, groups)]
    if not _gives_anything(plan):
        return lines
    if plan.request.min_loaded is None:
        lines += [
            f"--fresh {shlex.quote(pattern)} (fresh=) accepts their initial values"
            for pattern in dict.fromkeys(pattern for pattern, _ in causes)
        ]
    if not (groups or plan.request.strict):
        share = int(plan.loaded_fraction * 100) / 100
        lines.append(f"--min-loaded {share:g} (min_loaded=) accepts all of it")
    return lines


def _causes(missing: Sequence[Step]) -> list[list[Step]]:
    """Tensors of another shape, then those that the source does not have, by reason."""
    found: dict[str, list[Step]] = {}
    for step in missing:
        found.setdefault("" if step.counterpart else step.reason, []).append(step)
    return list(found.values())


def _cause_line(pattern: str, steps: Sequence[Step]) -> str:
    first = steps[0]
    of = f"such as {first.target.name}: " if len(steps) > 1 and first.counterpart else ""
    count = f"{len(steps)} tensors, " if len(steps) > 1 else ""
    return f"{pattern}: {count}{of}{first.reason}"


def _pattern(plan: TransferPlan, steps: Sequence[Step]) -> str:
    """Patterns of these tensors, and of no other that the source has or that somebody misses."""
    names = [step.target.name for step in steps]
    left = {*names, *(s.target.name for s in plan.steps if s.recomputed and not s.recipe)}
    return ", ".join(covering(names, (name for name in plan.by_target if name not in left)))


def _unused_lines(plan: TransferPlan) -> list[str]:
    """Names of the source that may belong here, by the reason why they lie unused; what has another
    shape is a cause of its own.
    """
    misfits = {step.counterpart for step in plan.steps}
    by_reason: dict[str, list[TensorSpec]] = {}
    for unused in plan.unused:
        if not unused.expected and unused.source not in misfits:
            by_reason.setdefault(unused.reason, []).append(unused.source)
    lines = []
    for reason, specs in by_reason.items():
        what = shape_text(specs[0].shape) if len(specs) == 1 else f"({len(specs)} tensors)"
        names = patterns((spec.name for spec in specs), 3)
        lines.append(f"the source has {names} {what}: {reason}")
    return first_lines(lines, 3)


#: Networks of the same names in one file of which each is offered.
_MOST_WAYS = 4
#: Tensors for which another plan is tried; of more, a person would wait.
_MOST_TRIED = 20_000


def _remedies(plan: TransferPlan, missing: Sequence[Step]) -> list[str]:
    """The options with which more would be loaded, as planning with them says."""
    if len(plan.steps) > _MOST_TRIED:
        return []
    found: list[str] = []
    loaded = 0
    for wanted, option in _candidates(plan, missing):
        if loaded == len(missing):
            break  # structure is asked last, since it takes the longest
        try:
            other = plan.ends.plan(wanted)
        except SurgeryError:
            continue  # it would be refused in its own words
        left = {step.target.name for step in _missing_steps(other)}
        now = [other.by_target[step.target.name] for step in missing]
        loaded = sum(step.target.name not in left and step.state != "open" for step in now)
        if loaded:
            asks = f", and asks about {len(other.names('open'))}" if other.open else ""
            does = "loads" if wanted.resize == plan.request.resize else "resizes"
            found.append(f"{option} {does} {loaded} of {len(missing)}{asks}")
    return found


def _candidates(
    plan: TransferPlan, missing: Sequence[Step]
) -> Iterator[tuple[TransferRequest, str]]:
    misfits = [step for step in missing if step.counterpart]
    if misfits and plan.request.resize is None:
        tried = plan.ends.plan(replace(plan.request, resize="auto"))
        fitting = [step for step in misfits if tried.by_target[step.target.name].recipe]
        if fitting:
            pattern = _pattern(plan, fitting)
            yield (
                replace(plan.request, resize=pattern),
                f"--resize {shlex.quote(pattern)} (resize=)",
            )
    if plan.request.mapping is None and (swap := _common_swap(plan, missing)):
        old, new = swap
        yield (
            replace(plan.request, mapping={old: new}),
            f"a --mapping file with the line '{old} -> {new}' (mapping=)",
        )
    if plan.request.match == "names" and len(misfits) < len(missing):
        yield replace(plan.request, match="structure"), "--match structure (match=)"


def _common_swap(plan: TransferPlan, missing: Sequence[Step]) -> tuple[str, str] | None:
    """The (source prefix, target prefix) whose exchange would match the most names, if many."""
    enough = max(2, len(missing) / 2)
    heads = Counter(step.target.name.partition(".")[0] for step in missing)
    by_suffix: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for step in missing:
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


def _open_groups(plan: TransferPlan) -> list[OpenGroup]:
    """What stays open and is not accepted, as a whole by ``keep_open`` or by name."""
    if plan.request.keep_open or not plan.open:
        return []
    accepted = _accepted(plan)
    return [group for group in plan.open if not accepted.issuperset(group.targets)]


def _open_count(groups: Sequence[OpenGroup]) -> str:
    tensors = sum(len(group.targets) for group in groups)
    return f"{counted(len(groups), 'group')} of {tensors} tensors stay open"


def _ways(plan: TransferPlan, groups: Sequence[OpenGroup]) -> list[str]:
    """How to decide what stays open: by hints, or between networks of the same names by lines."""
    if plan.request.match == "structure":
        return hints_for(groups)
    pairs = ((s, t) for group in groups for t in group.targets for s in group.sources)
    below = dict.fromkeys(s.removesuffix(f".{t}") for s, t in pairs if s.endswith(f".{t}"))
    if plan.request.mapping is not None:
        return []
    tried = (
        (p, plan.ends.plan(replace(plan.request, mapping={p: ""}))) for p in [*below][:_MOST_WAYS]
    )
    return [
        f"a --mapping file with the line '{prefix} -> ' (mapping=) takes that one"
        for prefix, other in tried
        if len(other.open) < len(plan.open)
    ]


#: Lines of a mapping in one message.
_MOST_LINES = 20


def _differences(plan: TransferPlan) -> list[str]:
    """What ``strict`` does not accept: whatever was not named."""
    return [
        *(f"target {step.target.name}: {step.reason}" for step in _unnamed(plan)),
        *(
            f"target {step.target.name}: {step.reason}; name {step.method.name} to accept it"
            for step in plan.steps
            if step.method and not step.method.named
        ),
        *(f"source {u.source.name}: {u.reason}" for u in plan.unused if not u.expected),
        *(f"source {name}: {reason}" for name, reason in plan.unread),
    ]


def _unnamed(plan: TransferPlan) -> list[Step]:
    """Tensors that keep their values, those of the head too, and that ``fresh`` does not name."""
    accepted = _accepted(plan)
    left = (step for step in plan.steps if not (step.recipe or step.recomputed))
    return [step for step in left if step.target.name not in accepted]


def _accepting_differences(plan: TransferPlan) -> Iterator[str]:
    if fresh := _unnamed(plan):
        pattern = shlex.quote(_pattern(plan, fresh))
        yield f"--fresh {pattern} (fresh=) accepts initial values in the target"
    clean = unwrap_names((*(u.source.name for u in plan.unused), *_used(plan)))
    unused = [clean[u.source.name] for u in plan.unused if not u.expected]
    paths = whole_subtrees(unused, [clean[name] for name in _used(plan)])
    if 0 < len(paths) <= _MOST_LINES:
        lines = ", ".join(f"'^{re.escape(path)} -> (unused)'" for path in paths)
        more = "with" if plan.request.mapping is None else "that also has"
        yield f"a --mapping file {more} {lines} (mapping=) accepts what the source has more"


def _used(plan: TransferPlan) -> Iterator[str]:
    return (spec.name for step in plan.steps for spec in step.sources)


def hints_for(groups: Sequence[OpenGroup]) -> list[str]:
    """How to decide what stayed open: each kind of question that a line is known for, and the
    names of the first of the others.
    """
    lines = []
    for hints in dict.fromkeys(group.hints for group in groups if group.hints):
        ways = " or ".join(f"--hint '{hint}'" for hint in hints)
        heads = " (8 heads one after the other)" if " x (" in hints[-1] else ""
        lines.append(f"a hint decides this: {ways}{heads}")
    for group in [group for group in groups if not group.hints][:1]:
        theirs, ours = map(_telling_parts, group.question)
        lines.append(
            f"a hint pairs two of them: --hint 'A -> B', where A is {' or '.join(ours)}, and B is "
            f"{' or '.join(theirs)}; nothing here says which"
        )
    return lines


def _telling_parts(names: Sequence[str]) -> list[str]:
    """For each of a few layers a segment of its path that no other has, or else the whole path."""
    paths = list(dict.fromkeys(tuple(name.split(".")[:-1]) or (name,) for name in names))
    counts = Counter(segment for path in paths for segment in {*path})
    telling = [
        next((s for s in reversed(path) if counts[s] == 1 and not s.isdecimal()), ".".join(path))
        for path in paths
    ]
    return [*telling[:4], *(["..."] if len(telling) > 4 else [])]
