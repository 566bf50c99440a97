"""A plan -> a rename file that gives the same plan: ``surgery map``.

What structure decided for each tensor is said for each kind of tensor, in lines that a person can
read, edit and commit. The file is planned by before it is handed out: it says the same, or there
is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.collapse import collapse
from surgery.collecting import collector_paused
from surgery.errors import RenameError, SurgeryError, TransferRefused
from surgery.matching.lines.drafting import Line, Wanted, draft, is_odd
from surgery.matching.lines.folding import fold_numbers
from surgery.matching.lines.recipes import Recipe, Term, read_recipe, resolve
from surgery.matching.lines.renames import parse_renames
from surgery.matching.operations import Operation, Piece, rows
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers.decide import make_plan
from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load, Step, TransferPlan, shape_text

_NO_FILE = "no rename file says what this plan says; transfer by it (--match structure) instead"


@collector_paused()
def write_renames(
    plan: TransferPlan, source: SourceSpec, target: ModelSpec, *, heading: Iterable[str] = ()
) -> str:
    """The text of a rename file by which names alone give ``plan``.

    ``source`` and ``target`` are what the plan was made of; ``heading`` are lines for the
    comment at the top. What an adapter computes is renamed alone: the adapter has to be named
    again. Raises :class:`~surgery.errors.SurgeryError` where no rename file says the same.
    """
    copies, operations = _uses(plan)
    recipes = _recipe_lines(operations, source, target)
    wanted = Wanted(
        tuple(spec.name for spec in source.specs),
        copies,
        frozenset(target.by_name),
        _rows(operations),
    )
    unused: list[str] = []
    for _ in range(4):
        lines = draft(wanted, unused)
        text = _text(plan, lines, recipes, heading)
        try:
            again = make_plan(source, target, renames=parse_renames(text))
        except (RenameError, TransferRefused) as error:
            raise SurgeryError(_NO_FILE, [error.message, *error.details]) from error
        differences = list(_differences(plan, again))
        if not differences:
            return text
        more = [name for name in _loaded_too(plan, again) if name not in unused]
        # Where another nesting of what nothing uses is as likely, names leave both alone.
        unused = [*unused, *more] if more else [each.source.name for each in plan.unused]
    raise SurgeryError(_NO_FILE, differences[:10])


def map_heading(plan: TransferPlan, old: str, new: str) -> list[str]:
    """Lines for the top of the file: from what to what, how much of it, and how to use it."""
    loaded = len(plan.steps) - len(plan.names("fresh"))
    return [
        f"{old} -> {new}",
        f"{loaded} of {len(plan.steps)} tensors and {plan.loaded_fraction:.2%} of the parameters; "
        f"{len(plan.steps) - loaded} stay fresh, {len(plan.unused)} of the source unused",
        "surgery transfer OLD NEW-ARCH --map THIS-FILE",
    ]


def _uses(plan: TransferPlan) -> tuple[dict[str, str], dict[str, tuple[TensorSpec, Operation]]]:
    """The target of every source that is only moved; how every other target is made.

    Of a tensor's several names one is enough, where all are given the same.
    """
    whole: dict[str, list[TensorSpec]] = {}
    made: dict[str, tuple[TensorSpec, Operation]] = {}
    for step in _once(plan):
        match step:
            case Assemble():
                made[step.target.name] = (step.target, step.operation)
            case Load() | Adapt() | KeepInit() if found := _only_source(step):
                whole.setdefault(found.name, []).append(step.target)
    shared = {spec.name for _, operation in made.values() for spec in operation.sources}
    copies = {}
    specs = {
        spec.name: spec for step in plan.steps for spec in (*step.sources, step.source) if spec
    }
    for name, targets in whole.items():
        if len(targets) == 1 and name not in shared:
            copies[name] = targets[0].name
            continue
        for target in targets:
            count = rows(specs[name].shape, False)
            made[target.name] = (target, Operation((Piece(specs[name], 0, count),)))
    return copies, made


def _rows(operations: Mapping[str, tuple[TensorSpec, Operation]]) -> dict[str, frozenset[str]]:
    """The targets that are made of each source."""
    found: dict[str, set[str]] = {}
    for name, (_, operation) in operations.items():
        for spec in operation.sources:
            found.setdefault(spec.name, set()).add(name)
    return {name: frozenset(targets) for name, targets in found.items()}


def _only_source(step: Step) -> TensorSpec | None:
    if isinstance(step, Adapt) and len(step.sources) > 1:
        raise SurgeryError(
            f"{step.target.name} is computed from {len(step.sources)} tensors by the adapter "
            f"{step.adapter}, which no rename file says"
        )
    return step.source


def _once(plan: TransferPlan) -> Iterator[Step]:
    """The steps, those of a tensor's other names left out where they are the same."""
    first = {name: names[0] for names in plan.ties for name in names}
    best: dict[tuple[object, ...], Step] = {}
    for step in plan.steps:
        if step.target.name not in first:
            yield step
        elif step.source:
            how = step.operation if isinstance(step, Assemble) else None
            key = (first[step.target.name], step.source, how)
            if key not in best or step.source.name == step.target.name:
                best[key] = step
    yield from best.values()


def _recipe_lines(
    operations: Mapping[str, tuple[TensorSpec, Operation]], source: SourceSpec, target: ModelSpec
) -> list[str]:
    """A line for each kind of recipe; one for each tensor where a pattern would say more."""
    for wanted, operation in operations.values():
        for name in (wanted.name, *(spec.name for spec in operation.sources)):
            if is_odd(name):
                raise SurgeryError(f"no recipe of a rename file can have the name {name!r}")
    folded = _folded(list(operations.values()))
    lines = [str(each) for each in folded]
    read = [_read(at, line) for at, line in enumerate(lines)]
    made, problems = resolve(read, source.specs, target.tensors)
    meant = {texts[-1]: at for at, each in enumerate(folded) for texts in each.members}
    bad = {problem.line for problem in problems}
    bad |= {at for name, at in meant.items() if name not in made or made[name].line != at}
    bad |= {one.line for name, one in made.items() if meant.get(name) != one.line}
    return [
        line
        for at, each in enumerate(folded)
        for line in (each.one_by_one() if at in bad else [lines[at]])
    ]


def _read(line: int, text: str) -> Recipe:
    left, _, right = text.partition(" -> ")
    recipe = read_recipe(line, left, right)
    assert isinstance(recipe, Recipe), recipe
    return recipe


@dataclass(frozen=True, slots=True)
class _Recipes:
    """Recipes of one form: which rows of each term, and the names, folded and one by one."""

    form: tuple[tuple[bool, str], ...]
    transposed: bool
    texts: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return self._line(self.texts)

    def one_by_one(self) -> list[str]:
        return [self._line(texts) for texts in self.members]

    def _line(self, texts: Sequence[str]) -> str:
        names = iter(texts[:-1])
        alone = len(self.form) == 1 and not self.transposed
        terms = []
        for transposed, part in self.form:
            name = next(names) if part else ""
            bare = part == ":" and not (alone and not transposed)
            term = str(Term(name, transposed, part or ":"))
            terms.append(term.removesuffix("[:]") if bare else term)
        return f"{' + '.join(terms)} -> {texts[-1]}{'^T' * self.transposed}"


def _folded(operations: Sequence[tuple[TensorSpec, Operation]]) -> list[_Recipes]:
    by_form: dict[tuple[tuple[tuple[bool, str], ...], bool], list[tuple[str, ...]]] = {}
    for wanted, operation in operations:
        form = tuple((piece.transposed, _part(piece)) for piece in operation.pieces)
        names = [piece.source.name for piece in operation.pieces if piece.source]
        by_form.setdefault((form, operation.transposed), []).append((*names, wanted.name))
    order = {wanted.name: at for at, (wanted, _) in enumerate(operations)}
    found = [
        _Recipes(*form, starred.texts, tuple(tuples[at] for at in starred.members))
        for form, tuples in by_form.items()
        for starred in fold_numbers(tuples)
    ]
    return sorted(found, key=lambda each: order[each.members[0][-1]])


def _part(piece: Piece) -> str:
    """Which rows: all, a part, some; empty for zeros."""
    if piece.source is None:
        return ""
    if piece.whole:
        return ":"
    count = rows(piece.source.shape, piece.transposed)
    if count % piece.rows == 0 and piece.start % piece.rows == 0:
        return f"{piece.start // piece.rows + 1}/{count // piece.rows}"
    return f"{piece.start}:{piece.stop}"


def _text(
    plan: TransferPlan, lines: Sequence[Line], recipes: Sequence[str], heading: Iterable[str]
) -> str:
    agree = [] if lines or recipes else ["the names agree: no line is needed"]
    parts = [
        [*map(_comment, (*heading, *agree))],
        *_plain_lines(lines),
        _aligned(recipes),
        [*map(_comment, _left_open(plan))],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _plain_lines(lines: Sequence[Line]) -> list[list[str]]:
    """What stands for what layers hold is told apart, where it comes last."""
    first = next((at for at, line in enumerate(lines) if line.fold.inner), len(lines))
    texts = [str(line) for line in lines]
    if not 0 < first < len(lines) or not all(line.fold.inner for line in lines[first:]):
        return [_aligned(texts)]
    return [_aligned(texts[:first]), ["# within these:", *_aligned(texts[first:])]]


#: Columns that arrows are brought to; a longer line keeps its own.
_LONGEST_ALIGNED = 56


def _aligned(lines: Sequence[str]) -> list[str]:
    sides = [line.partition(" -> ") for line in lines]
    width = max((len(left) for left, *_ in sides if len(left) <= _LONGEST_ALIGNED), default=0)
    return [f"{left:<{width}} -> {right}".rstrip() for left, _, right in sides]


def _comment(text: str) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"# {shown}".rstrip()


def _left_open(plan: TransferPlan) -> Iterator[str]:
    """What a person may want to fill in."""
    for group in plan.refused:
        yield f"left open: {_names(group.targets)} <- one of {_names(group.sources)}"
        yield f"           {group.reason}"
    said = {name for group in plan.refused for name in group.targets}
    fresh = [
        step
        for step in plan.steps
        if isinstance(step, KeepInit) and not step.expected and step.target.name not in said
    ]
    for names in collapse(step.target.name for step in fresh):
        shapes = {shape_text(plan.by_target[name].target) for name in names.names}
        yield f"fresh: {names.pattern} {' or '.join(sorted(shapes)) if len(shapes) < 3 else ''}"
    offered = {name for group in plan.refused for name in group.sources}
    rest = [u for u in plan.unused if not u.expected and u.source.name not in offered]
    shapes_of = {u.source.name: shape_text(u.source) for u in rest}
    for names in collapse(shapes_of):
        shapes = {shapes_of[name] for name in names.names}
        yield f"unused: {names.pattern} {' or '.join(sorted(shapes)) if len(shapes) < 3 else ''}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(each.pattern for each in collapse(names))


def _differences(plan: TransferPlan, again: TransferPlan) -> Iterator[str]:
    for one, other in zip(plan.steps, again.steps, strict=True):
        if _what(one) != _what(other):
            yield f"{one.target.name}: {_what(one)}, and by the file {_what(other)}"
    used = [{u.source.name for u in each.unused} for each in (plan, again)]
    yield from (f"unused on one side alone: {name}" for name in sorted(used[0] ^ used[1]))


def _what(step: Step) -> object:
    """Everything about a step but how it was found. What an adapter takes is a misfit by names."""
    match step:
        case Assemble():
            return step.operation
        case Load():
            return f"all of {step.source.name}"
        case Adapt() | KeepInit():
            return f"fresh, beside {step.source.name}" if step.source else "fresh"


def _loaded_too(plan: TransferPlan, again: TransferPlan) -> Iterator[str]:
    """Sources that names load and the plan does not use."""
    unused = {u.source.name for u in plan.unused}
    for step in again.steps:
        if step.source and step.source.name in unused:
            yield step.source.name
