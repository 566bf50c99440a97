"""A plan -> a mapping that gives the same plan by names alone: ``surgery map``.

What structure decided for each tensor is said for each kind of tensor, in lines that a person can
read, edit and commit. The mapping is planned by before it is handed out: it says the same, or
there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from surgery.collapse import collapse
from surgery.collecting import collector_paused
from surgery.errors import MappingError, SurgeryError, TransferRefused
from surgery.matching.lines.drafting import NO_MAPPING, Wanted, draft
from surgery.matching.lines.folding import Line
from surgery.matching.lines.mapping import parse_mapping
from surgery.matching.lines.recipe_drafts import draft_recipes
from surgery.matching.recipes.recipe import Recipe, View
from surgery.specs import SourceSpec
from surgery.transfers.plan import TransferPlan
from surgery.transfers.planning import plan as plan_request
from surgery.transfers.request import TransferRequest
from surgery.transfers.step import Step
from surgery.wording import percent_text, printable, shape_text


@collector_paused()
def mapping_of(plan: TransferPlan) -> str:
    """The text of a mapping by which names alone give ``plan``.

    What is resized is renamed alone: the resizer has to be named again. Raises
    :class:`~surgery.errors.SurgeryError` where no mapping says the same.
    """
    given = (spec for step in plan.steps for spec in (*step.sources, step.source) if spec)
    source = SourceSpec(tuple(dict.fromkeys((*given, *(u.source for u in plan.unused)))))
    renamed, made = _said(plan)
    recipes = draft_recipes(made, source.specs, plan.target.tensors)
    names = tuple(spec.name for spec in source.specs)
    wanted = Wanted(names, renamed, frozenset(plan.target.by_name), _fed(made))
    for attempt in range(4):
        text = _text(plan, draft(wanted), recipes)
        try:
            again = plan_request(
                TransferRequest(
                    source=source, target=plan.target, match="names", mapping=parse_mapping(text)
                )
            )
        except (MappingError, TransferRefused) as error:
            raise SurgeryError(NO_MAPPING, [error.message, *error.details]) from error
        differences = list(_differences(plan, again))
        if not differences:
            return text
        spare = {u.source.name for u in plan.unused}
        more = {s.source.name for s in again.steps if s.source and s.source.name in spare}
        # Where another nesting of what nothing uses is as likely, names leave both alone, and
        # where one is left out they find the next.
        every = attempt == 2 or more <= wanted.out
        wanted = replace(wanted, out=frozenset(spare if every else wanted.out | more))
    raise SurgeryError(NO_MAPPING, differences)


def _heading(plan: TransferPlan) -> list[str]:
    """From what to what, how much of it, and how to use it."""
    fresh = len(plan.names("fresh", "open"))
    loaded = len(plan.steps) - fresh
    return [
        f"{plan.request.source_label} -> {plan.target_label}",
        f"{loaded} of {len(plan.steps)} tensors and {percent_text(plan.loaded_fraction)} of the "
        f"parameters; {fresh} stay fresh, {len(plan.unused)} of the source unused",
        "surgery transfer OLD NEW-ARCH --mapping THIS-FILE",
    ]


def _said(plan: TransferPlan) -> tuple[dict[str, str], dict[str, Recipe]]:
    """The target of every source that is only renamed; how every other target is made.

    Of a tensor's several names one is enough, where all are given the same.
    """
    whole: dict[View, list[str]] = {}
    made: dict[str, Recipe] = {}
    for step in _once(plan):
        recipe = step.recipe if step.recipe or not step.source else View.of(step.source)
        if isinstance(recipe, View) and recipe.is_copy:
            whole.setdefault(recipe, []).append(step.target.name)
        elif recipe and step.method:
            raise SurgeryError(
                f"{step.target.name} is resized from {len(recipe.sources)} tensors by "
                f"{step.method.name}, which no mapping says"
            )
        elif recipe:
            made[step.target.name] = recipe
    shared = {spec for recipe in made.values() for spec in recipe.sources}
    renamed = {}
    for view, targets in whole.items():
        if len(targets) == 1 and view.source not in shared:
            renamed[view.source.name] = targets[0]
        else:
            made |= dict.fromkeys(targets, view)
    return renamed, made


def _fed(made: Mapping[str, Recipe]) -> dict[str, frozenset[str]]:
    """The targets that are made of each source."""
    found: dict[str, set[str]] = {}
    for name, recipe in made.items():
        for spec in recipe.sources:
            found.setdefault(spec.name, set()).add(name)
    return {name: frozenset(targets) for name, targets in found.items()}


def _once(plan: TransferPlan) -> Iterator[Step]:
    """The steps, those of a tensor's other names left out where they are the same."""
    first = {name: names[0] for names in plan.ties for name in names}
    best: dict[tuple[object, ...], Step] = {}
    for step in plan.steps:
        if step.target.name not in first:
            yield step
        elif step.source:
            key = (first[step.target.name], step.source, step.recipe)
            if key not in best or step.source.name == step.target.name:
                best[key] = step
    yield from best.values()


def _text(plan: TransferPlan, lines: Sequence[Line], recipes: Sequence[str]) -> str:
    agree = [] if lines or recipes else ["the names agree: no line is needed"]
    parts = [
        [*map(_comment, (*_heading(plan), *agree))],
        *_plain_lines(lines),
        _aligned(recipes),
        [*map(_comment, _left_open(plan))],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _plain_lines(lines: Sequence[Line]) -> list[list[str]]:
    """What stands for what layers hold has a part of its own, where it comes last."""
    first = next((at for at, line in enumerate(lines) if line.held == "inside"), len(lines))
    texts = [str(line) for line in lines]
    if not 0 < first < len(lines) or not all(line.held == "inside" for line in lines[first:]):
        return [_aligned(texts)]
    return [_aligned(texts[:first]), ["# within these:", *_aligned(texts[first:])]]


#: Columns that arrows are brought to; a longer line keeps its own.
_LONGEST_ALIGNED = 56


def _aligned(lines: Sequence[str]) -> list[str]:
    sides = [line.partition(" -> ") for line in lines]
    width = max((len(left) for left, *_ in sides if len(left) <= _LONGEST_ALIGNED), default=0)
    return [f"{left:<{width}} -> {right}".rstrip() for left, _, right in sides]


def _comment(text: str) -> str:
    return f"# {printable(text)}".rstrip()


def _left_open(plan: TransferPlan) -> Iterator[str]:
    """What a person may want to fill in."""
    for group in plan.open:
        yield f"left open: {_names(group.targets)} <- one of {_names(group.sources)}"
        yield f"           {group.reason}"
    fresh = (step.target for step in plan.steps if step.state == "fresh" and not step.recomputed)
    offered = {name for group in plan.open for name in group.sources}
    unused = (u.source for u in plan.unused if not u.expected and u.source.name not in offered)
    for word, specs in (("fresh", fresh), ("unused", unused)):
        shapes = {spec.name: shape_text(spec.shape) for spec in specs}
        for names in collapse(shapes):
            found = sorted({shapes[name] for name in names.names})
            yield f"{word}: {names.pattern} {' or '.join(found) if len(found) < 3 else ''}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(each.pattern for each in collapse(names))


def _differences(plan: TransferPlan, again: TransferPlan) -> Iterator[str]:
    for one, other in zip(plan.steps, again.steps, strict=True):
        if _what(one) != _what(other):
            yield f"{one.target.name}: {_what(one)}, and by the mapping {_what(other)}"
    used = [{u.source.name for u in each.unused} for each in (plan, again)]
    yield from (f"unused on one side alone: {name}" for name in sorted(used[0] ^ used[1]))


def _what(step: Step) -> object:
    """Everything about a step but how it was found. What is resized is a misfit by names."""
    if step.recipe and not step.method:
        return step.recipe
    return f"fresh, beside {step.source.name}" if step.source else "fresh"
