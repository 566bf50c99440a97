"""Plan, outcome, groups, schedule -> text. A report is a function of the value, it never decides.

A :class:`Report` is a headline, tables and notes. ``text()`` is plain and aligned, for pipes and
for ``str()``; on a terminal rich draws the same cells as tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.collapse import Collapsed, collapse
from surgery.specs import TensorSpec, is_floating

if TYPE_CHECKING:
    from rich.console import RenderableType

    from surgery.checkpoint import Contents, Verification
    from surgery.checkpoint.holding import StateDict
    from surgery.checkpoint.verification import Finding
    from surgery.conversion import ConversionOutcome
    from surgery.difference import Difference, ValueDifference
    from surgery.identification import Candidate, Differing, Identification
    from surgery.proof.proof import Movement, Proof
    from surgery.training.curve import GroupCurve, ScheduleCurve
    from surgery.transfers.apply import TransferOutcome
    from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load, TransferPlan, Unused
    from surgery.tuning import Firing, Group, ParamGroups, Rule, Rules
    from surgery.tuning.history import When


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, and whether its cells are numbers (set to the right, never folded).

    A ``spare`` column is left out on a terminal that is too narrow for all.
    """

    title: str
    number: bool = False
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under columns. ``tone`` says what the rows mean, for colour on a terminal."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Report:
    """A headline, tables, and notes that the reader should not miss."""

    headline: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The report as plain text: aligned columns, no colour, no control characters."""
        parts = ["\n".join(map(printable, self.headline))]
        parts += [_plain_table(table) for table in self.tables if table.rows]
        if self.notes:
            parts.append("\n".join(f"note: {printable(note)}" for note in self.notes))
        return "\n\n".join(parts)

    def __rich__(self) -> RenderableType:
        from surgery.drawing import drawn

        return drawn(self)


def printable(text: str) -> str:
    """The text with control characters (terminal escapes in a stranger's names) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain_table(table: Table) -> str:
    rows = [tuple(column.title for column in table.columns), *table.rows]
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [_width(cells) for cells in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([printable(table.title), *(f"  {line}" for line in lines)])


#: A cell that is wider sticks out of its column: all others padded to it would fill the memory.
_WIDEST = 400


def _width(cells: Iterable[str]) -> int:
    return max(width for width in map(len, cells) if width <= _WIDEST)


# Transfer ------------------------------------------------------------------------------------


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
        notes=(*_broken_notes(outcome.overflowed), *_plan_notes(outcome.plan)),
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
    return (*casts, *ties)


def _plan_tables(plan: TransferPlan) -> tuple[Table, ...]:
    from surgery.transfers.plan import Adapt, Assemble, KeepInit, Load

    fresh = [step for step in plan.steps if isinstance(step, KeepInit)]
    loaded = [step for step in plan.steps if isinstance(step, Load | Assemble)]
    adapted = [step for step in plan.steps if isinstance(step, Adapt)]
    return (
        _fresh_table(fresh),
        _adapted_table(adapted),
        _unused_table(plan.unused),
        _pairs_table("in the source, and not read", plan.unread),
        _loaded_table(loaded),
    )


_TENSORS = (Column("tensor"), Column("count", number=True), Column("shape"))


def _fresh_table(steps: Sequence[KeepInit]) -> Table:
    rows = _collapsed_rows((step.target, step.reason) for step in steps)
    return Table("fresh", (*_TENSORS, Column("why")), rows, "new")


def _unused_table(unused: Sequence[Unused]) -> Table:
    rows = _collapsed_rows((u.source, u.reason) for u in unused)
    return Table("unused in the source", (*_TENSORS, Column("why")), rows, "odd")


def _adapted_table(steps: Sequence[Adapt]) -> Table:
    references = {_how(step): step.reference for step in steps}
    rows = tuple(
        (*row, references[row[-1]])
        for row in _collapsed_rows((step.target, _how(step)) for step in steps)
    )
    return Table("adapted", (*_TENSORS, Column("how"), Column("after", spare=True)), rows, "new")


def _how(step: Adapt) -> str:
    via = f" ({', '.join(step.via)})" if step.via else ""
    return f"{step.adapter}: {step.reason}{via}"


def _loaded_table(steps: Sequence[Load | Assemble]) -> Table:
    source = {step.target.name: " + ".join(s.name for s in step.sources) for step in steps}
    rows = tuple(
        (pattern, str(len(names)), shape, _origin({name: source[name] for name in names}, how))
        for pattern, names, shape, how in _collapsed((step.target, step.reason) for step in steps)
    )
    return Table("loaded", (*_TENSORS, Column("from")), rows, "good")


def _origin(source: dict[str, str], how: str) -> str:
    """Where a row's tensors come from, as short as it can be told: target name -> source name."""
    if all(old == new for new, old in source.items()):
        return f"same name{how and f', {how}'}"
    prefixes = {old.removesuffix(f".{new}") for new, old in source.items()}
    if len(prefixes) == 1 and not prefixes & set(source.values()):
        return f"{prefixes.pop()}.* ({how})"
    if how.startswith("prefix"):
        return how
    patterns = collapse(dict.fromkeys(source.values()))
    more = f" and {len(patterns) - 1} more" if len(patterns) > 1 else ""
    return f"{patterns[0].pattern}{more} ({how})"


def _collapsed_rows(
    specs: Iterable[tuple[TensorSpec, str]],
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (pattern, str(len(names)), shape, reason)
        for pattern, names, shape, reason in _collapsed(specs)
    )


def _collapsed(
    specs: Iterable[tuple[TensorSpec, str]],
) -> list[tuple[str, tuple[str, ...], str, str]]:
    """(pattern, names, shape, reason) of tensors that share a reason, repeated layers folded."""
    by_reason: dict[str, dict[str, TensorSpec]] = {}
    for spec, reason in specs:
        by_reason.setdefault(reason, {})[spec.name] = spec
    return [
        (folded.pattern, folded.names, shapes_text(tensors[name] for name in folded.names), reason)
        for reason, tensors in by_reason.items()
        for folded in collapse(tensors)
    ]


def shapes_text(specs: Iterable[TensorSpec]) -> str:
    """One shape as it is, several as their number."""
    shapes = dict.fromkeys(spec.shape for spec in specs)
    if len(shapes) > 1:
        return f"{len(shapes)} shapes"
    return f"({', '.join(map(str, next(iter(shapes))))})"


# Proof ---------------------------------------------------------------------------------------


def proof_report(proof: Proof, *, heading: Sequence[str] = ()) -> Report:
    """The verdict, what was compared and how near it came, then what speaks against it."""
    return Report(
        headline=(*heading, proof.verdict, _trials_text(proof)),
        tables=(_against_table(proof), _settings_table(proof)),
        notes=tuple(_proof_notes(proof)),
    )


def proof_lines(proof: Proof) -> tuple[str, ...]:
    """The same in a few lines, below an error."""
    moves = () if proof.networks_differ else proof.contrary
    swaps = [
        f"{', '.join(move.targets) or 'nothing'} takes {move.source}, and {_acts(move)}"
        for move in sorted(moves, key=lambda move: not move.acts_as)
    ]
    behind = [_behind_text(proof)] if proof.behind else []
    settings = [
        f"{places}: {name} is {source} in the source, {target} in the target"
        for places, name, source, target in _settings_rows(proof)
    ]
    first = [f"the first difference: {proof.first}"] if proof.first else []
    return (_trials_text(proof), *_firsts(swaps, 8), *behind, *first, *_firsts(settings, 8))


def _firsts(lines: Sequence[str], count: int) -> list[str]:
    rest = len(lines) - count
    return [*lines[:count], *([f"... and {rest} more"] if rest > 0 else [])]


def _trials_text(proof: Proof) -> str:
    points = ", ".join(
        point.source if point.source == point.target else f"{point.source} = {point.target}"
        for point in proof.random.points
    )
    text = (
        f"{points or 'nothing'} compared in float64 on {proof.shown}: relative difference "
        f"{proof.random.largest:.1e} with random values in every mapped tensor, "
        f"{proof.own.largest:.1e} with the checkpoint's own"
    )
    if proof.networks_differ:
        return text
    moved, total = len(proof.moved), counted(len(proof.movements), "tensor")
    return f"{text}; moved alone, {moved:,} of {total} move both alike"


def _against_table(proof: Proof) -> Table:
    columns = (
        Column("source"),
        Column("target"),
        Column("difference", number=True),
        Column("what it does"),
    )
    moves = () if proof.networks_differ else proof.contrary[:40]
    rows = tuple(
        (move.source, ", ".join(move.targets), f"{move.difference:.1e}", _acts_text(move))
        for move in moves
    )
    return Table("tensors that speak against it", columns, rows, "odd")


def _acts_text(move: Movement) -> str:
    return _acts(move) if move.acts_as else move.verdict


def _acts(move: Movement) -> str:
    acts_as = " or ".join(move.acts_as)
    return f"acts as {acts_as}" if acts_as else "moves the two networks differently"


def _behind_text(proof: Proof) -> str:
    behind = _patterns(move.source for move in proof.behind)
    return f"these act only on what cannot be compared, so nothing is said of them: {behind}"


def _settings_table(proof: Proof) -> Table:
    columns = (Column("where"), Column("what"), Column("source"), Column("target"))
    return Table("hyper-parameters that differ", columns, tuple(_settings_rows(proof)), "odd")


def _settings_rows(proof: Proof) -> Iterator[tuple[str, str, str, str]]:
    """One row for all places that differ in the same."""
    by_text: dict[tuple[str, str, str], dict[str, None]] = {}
    for setting in proof.settings:
        text = (setting.name, setting.source, setting.target)
        by_text.setdefault(text, {})[setting.place] = None
    for text, places in by_text.items():
        yield (_patterns(places), *text)


def _proof_notes(proof: Proof) -> Iterator[str]:
    if proof.networks_differ:
        yield (
            "they differ whichever of the tensors of one shape goes where; whether each is in its "
            "own place can be told once they agree"
        )
        if not proof.settings:
            yield (
                "no hyper-parameter shows why: look before the first difference, and at the order "
                "of rows in fused tensors (q, k and v in turn, or head by head)"
            )
    if proof.first:
        yield f"the first difference: {proof.first}"
    if unseen := [move.source for move in proof.unseen]:
        yield f"moved alone, these move neither network: {_patterns(unseen)}"
    if proof.behind:
        yield _behind_text(proof)
    if proof.hidden:
        yield f"the checkpoint's own values hide what these do: {_patterns(proof.hidden)}"
    if proof.adapted:
        yield f"adapted, so no part of the claim: {_adapted_text(proof)}"
    yield from proof.notes


def _adapted_text(proof: Proof) -> str:
    by_adapter: dict[str, list[str]] = {}
    for name, adapter in proof.adapted:
        by_adapter.setdefault(adapter, []).append(name)
    return "; ".join(f"{_patterns(names)} ({adapter})" for adapter, names in by_adapter.items())


def _patterns(names: Iterable[str]) -> str:
    patterns = [folded.pattern for folded in collapse(dict.fromkeys(names))]
    more = f" and {len(patterns) - 6} more" if len(patterns) > 6 else ""
    return f"{', '.join(patterns[:6])}{more}"


# Groups --------------------------------------------------------------------------------------


def groups_report(groups: ParamGroups, *, heading: Sequence[str] = ()) -> Report:
    """One row a group, the rules behind them, and what is allowed but probably not meant."""
    shared, own = _hyper_keys(groups)
    return Report(
        headline=(*heading, _groups_total(groups), *shared),
        tables=(_groups_table(groups, own), _rules_table(groups.rules)),
        notes=(*_norm_notes(groups), *groups.warnings),
    )


def _groups_total(groups: ParamGroups) -> str:
    state = "unknown" if groups.state_bytes is None else bytes_text(groups.state_bytes)
    return (
        f"{groups.optimizer}: {groups.trained_parameters:,} of {groups.parameters:,} parameters "
        f"train, in {counted(len(groups.trained), 'group')}; "
        f"{bytes_text(groups.nbytes)}, and {state} of optimizer state"
    )


def _hyper_keys(groups: ParamGroups) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A line on the hyper-parameters in which no group differs, and the keys of the others;
    the rate and the weight decay always have a column.
    """
    values: dict[str, set[str]] = {}
    for group in groups.trained:
        for key, value in group.hyper:
            values.setdefault(key, set()).add(value_text(value))
    others = {key: found for key, found in values.items() if key not in ("lr", "weight_decay")}
    shared = [f"{key}={next(iter(found))}" for key, found in others.items() if len(found) == 1]
    own = tuple(key for key, found in others.items() if len(found) > 1)
    return ((f"every group: {' '.join(shared)}",) if shared else ()), own


def _norm_notes(groups: ParamGroups) -> list[str]:
    by_end: dict[int | None, list[str]] = {}
    for norm in groups.norms:
        by_end.setdefault(norm.until, []).append(norm.path)
    return [
        f"kept in eval mode through train(){'' if until is None else f' until epoch {until}'}: "
        f"{', '.join(folded.pattern for folded in collapse(paths))}"
        for until, paths in by_end.items()
    ]


def _groups_table(groups: ParamGroups, own: Sequence[str]) -> Table:
    columns = (
        Column("group"),
        Column("tensors", number=True, spare=True),
        Column("parameters", number=True),
        Column("bytes", number=True, spare=True),
        Column("state", number=True, spare=True),
        Column("lr", number=True),
        Column("wd", number=True),
        *(Column(key, number=True) for key in own),
        Column("trains"),
        Column("lines"),
    )
    return Table(
        "groups", columns, tuple(_group_row(group, own) for group in groups.groups), "good"
    )


def _group_row(group: Group, own: Sequence[str]) -> tuple[str, ...]:
    hyper = dict(group.hyper)
    return (
        group.name,
        f"{group.tensors:,}",
        f"{group.parameters:,}",
        bytes_text(group.nbytes),
        "?" if group.state_bytes is None else bytes_text(group.state_bytes),
        *(value_text(hyper.get(key)) for key in ("lr", "weight_decay", *own)),
        _when_text(group),
        ", ".join(str(line.line) for line in group.lines) or "base",
    )


def _when_text(group: Group) -> str:
    if group.when == "frozen":
        return "frozen (by the model)" if group.frozen_by_model else "frozen"
    return _start_text(group.when)


def _start_text(when: When) -> str:
    return "yes" if when == "train" else f"from epoch {when}"


def _rules_table(rules: Rules) -> Table:
    columns = (Column("line", number=True), Column("rule"), Column("selector read as"))
    rows = tuple((str(rule.line), rule.text, _reading(rule)) for rule in rules.rules)
    return Table(f"rules of {rules.path}", columns, rows)


def _reading(rule: Rule) -> str:
    if rule.points:
        return "split points"
    return ", ".join(dict.fromkeys(atom.kind for atom in rule.selector.atoms))


def why_report(name: str, firings: Sequence[Firing]) -> Report:
    """The lines that fired for one parameter, in order, and each attribute's value after it."""
    columns = (Column("line", number=True), Column("said"), Column("did"), Column("so"))
    rows = tuple(
        (
            str(firing.line) if firing.line else "",
            firing.text,
            firing.action,
            f"{firing.attribute} = {value_text(firing.value)}",
        )
        for firing in firings
    )
    return Report((name,), (Table("what fired, in order", columns, rows),))


def counted(count: int, thing: str) -> str:
    """``1 tensor``, ``1,024 tensors``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def value_text(value: object) -> str:
    """A hyper-parameter as short as it can be told: floats to four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return str(value)


def bytes_text(count: int) -> str:
    """Bytes in powers of 1024: ``512 B``, ``1.5 KiB``, ``2.0 GiB``."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_BYTE_UNITS))
    return f"{count / 1024**power:.1f} {_BYTE_UNITS[power - 1]}"


_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB")


# Schedule ------------------------------------------------------------------------------------

#: Rows that are wanted of a run, apart from what happens in it; events that all get a row; and
#: curves that fit beside each other.
_SAMPLES, _MOST_EVENTS, _MOST_CURVES = 9, 16, 6


def schedule_report(curve: ScheduleCurve, *, heading: Sequence[str] = ()) -> Report:
    """Every group's own rate, then the rates over the run, where something happens above all."""
    positions, left_out = _telling_positions(curve)
    more = (f"{counted(left_out, 'other event')} between these rows",) if left_out else ()
    return Report(
        headline=(*heading, _run_text(curve)),
        tables=(_own_rates_table(curve), _course_table(curve, positions)),
        notes=(*more, *curve.notes),
    )


def _run_text(curve: ScheduleCurve) -> str:
    run = counted(curve.epochs, "epoch")
    if curve.by == "step":
        run += f" of {counted(curve.steps_per_epoch, 'step')}"
    each = f", a new rate each {curve.by}" if curve.schedule else ""
    return f"{curve.schedule or 'no schedule'}: {run}{each}"


def _telling_positions(curve: ScheduleCurve) -> tuple[tuple[int, ...], int]:
    """(the units worth a row, how many events have none)."""
    last = len(curve.factors) - 1
    steps = min(_SAMPLES, curve.epochs)
    sampled = {round(i / steps * curve.epochs) * curve.units_per_epoch for i in range(steps)}
    happening = list(dict.fromkeys(event.position for event in curve.events))
    kept = happening[:: -(-len(happening) // _MOST_EVENTS)] if happening else []
    return tuple(sorted({0, last, *sampled, *kept})), len(happening) - len(kept)


def _own_rates_table(curve: ScheduleCurve) -> Table:
    columns = (Column("group"), Column("own rate", number=True), Column("trains"))
    rows = tuple(
        (group.name, value_text(group.lr), _start_text(group.when)) for group in curve.groups
    )
    return Table("groups", columns, rows, "good")


def _course_table(curve: ScheduleCurve, positions: Sequence[int]) -> Table:
    """One row for each position, and one column for each different curve while they fit."""
    shown = _distinct_curves(curve)
    if len(shown) > _MOST_CURVES:
        shown = dict(sorted(shown.items(), key=lambda item: item[1].lr)[:: len(shown) - 1])
    by_step = (Column("step", number=True),) if curve.by == "step" else ()
    columns = (
        Column("epoch", number=True),
        *by_step,
        Column("factor", number=True),
        *(Column(title, number=True) for title in shown),
        Column("what happens"),
    )
    happening: dict[int, list[str]] = {}
    for event in curve.events:
        happening.setdefault(event.position, []).append(event.text)
    rows = tuple(
        (
            f"{curve.epoch_of(position):.4g}",
            *((f"{position:,}",) if by_step else ()),
            f"{curve.factors[position]:.4g}",
            *(_rate_text(curve.rate(group, position)) for group in shown.values()),
            "; ".join(happening.get(position, ())),
        )
        for position in positions
    )
    return Table("rates, each a group's own times the factor", columns, rows)


def _distinct_curves(curve: ScheduleCurve) -> dict[str, GroupCurve]:
    """Groups that have one curve share a column, which names the first and counts the others."""
    shared: dict[object, list[GroupCurve]] = {}
    for group in curve.groups:
        shared.setdefault((group.lr, group.first_epoch), []).append(group)
    return {
        f"{groups[0].name}{f' +{len(groups) - 1}' if len(groups) > 1 else ''}": groups[0]
        for groups in shared.values()
    }


def _rate_text(rate: float | None) -> str:
    return "frozen" if rate is None else f"{rate:.3g}"


# Files ---------------------------------------------------------------------------------------


def contents_report(contents: Contents, verification: Verification | None = None) -> Report:
    """What a file holds: every state dict's tensors, then what lies beside them.

    With a ``verification`` what is amiss comes first.
    """
    states = contents.state_dicts
    alone = len(states) == 1
    return Report(
        headline=(_contents_text(contents), *_verified_text(verification)),
        tables=(
            *_verification_tables(verification, alone),
            *(table for state in states for table in _state_dict_tables(state, alone)),
            _unlisted_table(states, alone),
            _pairs_table("beside them", ((key or ".", what) for key, what in contents.others)),
            _opaque_table(contents.opaque),
        ),
    )


def _contents_text(contents: Contents) -> str:
    total = sum(len(state.places) for state in contents.state_dicts)
    return (
        f"{contents.path}: {contents.format}, {bytes_text(contents.size)}, "
        f"{counted(len(contents.state_dicts), 'state dict')}, {counted(total, 'tensor')}"
    )


def _state_dict_tables(state: StateDict, alone: bool) -> Iterator[Table]:
    """Its tensors, the ties between them, and the metadata kept with it."""
    whose = "" if alone else f" of {state.key or '.'!r}"
    title = "tensors" if state.key is None and alone else f"state dict {state.key or '.'!r}"
    columns = (*_TENSORS, Column("dtype"), Column("size", number=True))
    specs, ties = state.specs, state.ties
    yield Table(f"{title}: {_state_dict_text(specs, ties)}", columns, _sized_rows(specs))
    rows = tuple((" = ".join(names),) for names in ties)
    yield Table(f"tied{whose}", (Column("names of one tensor"),), rows)
    yield _pairs_table(f"metadata{whose}", _metadata_rows(state.metadata))


def _state_dict_text(specs: Sequence[TensorSpec], ties: Iterable[Sequence[str]]) -> str:
    """Tensors by name; elements and bytes with a tied tensor counted once."""
    repeated = {name for names in ties for name in names[1:]}
    once = [spec for spec in specs if spec.name not in repeated]
    dtypes = Counter(spec.dtype for spec in specs)
    kinds = [dtype if len(dtypes) == 1 else f"{n:,} {dtype}" for dtype, n in dtypes.most_common()]
    return ", ".join(
        (
            counted(len(specs), "tensor"),
            f"{sum(spec.numel for spec in once):,} elements",
            bytes_text(sum(spec.nbytes for spec in once)),
            *kinds,
        )
    )


def _sized_rows(specs: Sequence[TensorSpec]) -> tuple[tuple[str, ...], ...]:
    sizes = {spec.name: spec.nbytes for spec in specs}
    return tuple(
        (pattern, f"{len(names):,}", shape, dtype, bytes_text(sum(sizes[name] for name in names)))
        for pattern, names, shape, dtype in _collapsed((spec, spec.dtype) for spec in specs)
    )


def _unlisted_table(states: Iterable[StateDict], alone: bool) -> Table:
    rows = tuple(
        (name if alone else f"{state.key or '.'}: {name}", what)
        for state in states
        for name, what in state.unlisted
    )
    return Table("cannot be transferred", (Column("name"), Column("what")), rows, "odd")


def _opaque_table(opaque: Sequence[str]) -> Table:
    rows = tuple((name,) for name in opaque)
    return Table("not imported", (Column("global that the file names"),), rows)


def _verified_text(verification: Verification | None) -> Iterator[str]:
    if verification is None:
        return
    read = f"verified {counted(verification.tensors, 'tensor')}, {bytes_text(verification.nbytes)}"
    yield f"{read}: {_checked_text(verification)}"


def verified_note(verification: Verification) -> str:
    """What reading all of one file told."""
    return f"{verification.path}: {_checked_text(verification)}"


def _checked_text(verification: Verification) -> str:
    special = f"{verification.nan:,} NaN and {verification.inf:,} Inf"
    return f"{_checksums_text(verification)}; {special}"


def _checksums_text(verification: Verification) -> str:
    damaged = sum(finding.damaged for finding in verification.findings)
    if damaged:
        return f"{counted(damaged, 'tensor')} DAMAGED, at odds with the checksum in the file"
    if verification.damaged_parts:
        return "DAMAGED, though in no tensor shown here"
    if not verification.unchecked:
        return "every checksum agrees"
    if verification.unchecked == verification.nbytes:
        return "the file records no checksums, so damage would not show"
    return f"checksums agree, but {bytes_text(verification.unchecked)} have none"


def _verification_tables(verification: Verification | None, alone: bool) -> Iterator[Table]:
    if verification is None:
        return
    columns = (
        *_TENSORS[:2],
        Column("bytes"),
        Column("NaN", number=True),
        Column("Inf", number=True),
        Column("elements", number=True),
    )
    yield Table("amiss", columns, tuple(_finding_rows(verification.findings, alone)), "odd")
    parts = tuple((name,) for name in verification.damaged_parts)
    yield Table("damaged besides", (Column("part of the file"),), parts, "odd")


def _finding_rows(findings: Iterable[Finding], alone: bool) -> Iterator[tuple[str, ...]]:
    """Findings of one kind folded by layer: their counts are sums."""
    from surgery.checkpoint.verification import tensor_label

    kinds: dict[bool, dict[str, Finding]] = {}
    for finding in findings:
        names = (tensor_label(name, alone=alone) for name in finding.names)
        kinds.setdefault(finding.damaged, {})[" = ".join(names)] = finding
    for damaged, found in sorted(kinds.items(), reverse=True):
        for folded in collapse(found):
            group = [found[name] for name in folded.names]
            sums = (sum(f.nan for f in group), sum(f.inf for f in group))
            yield (
                folded.pattern,
                f"{len(group):,}",
                "damaged" if damaged else "",
                *(f"{number:,}" for number in (*sums, sum(f.elements for f in group))),
            )


def _pairs_table(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    return Table(title, (Column("name"), Column("value")), tuple(pairs))


def _metadata_rows(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Long values (a transfer's record) are told by their length."""
    return [
        (key, value if len(value) <= 60 else f"{len(value):,} characters of text")
        for key, value in metadata.items()
    ]


# Difference ----------------------------------------------------------------------------------


def conversion_report(outcome: ConversionOutcome, *, heading: Sequence[str] = ()) -> Report:
    """What a conversion wrote, cast, broke and left out."""
    conversion = outcome.conversion
    casts = [f"{counted(n, 'tensor')} cast {cast}" for cast, n in conversion.casts.items()]
    total = f"{counted(len(conversion.specs), 'tensor')}, {bytes_text(conversion.nbytes)}"
    return Report(
        (*heading, "; ".join((total, *casts))),
        (_pairs_table("left out", conversion.left_out),) if conversion.left_out else (),
        _broken_notes(outcome.overflowed),
    )


def _broken_notes(overflowed: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"the cast broke {count:,} values of {name}" for name, count in overflowed)


def difference_report(
    difference: Difference, *, names: tuple[str, str] = ("the first", "the second")
) -> Report:
    """What differs, kind by kind; first lines that say whether anything does, and where most."""
    equal = _collapsed_names(difference.equal) if difference.values else ()
    return Report(
        headline=(_counts_text(difference, names), *_largest_text(difference.values)),
        tables=(
            _specs_table(f"only in {names[0]}", difference.only_first),
            _specs_table(f"only in {names[1]}", difference.only_second),
            _respecified_table(difference, names),
            _values_table(difference),
            Table("equal", _TENSORS[:2], equal, "good"),
            _pairs_table("cannot be compared", difference.incomparable),
        ),
        notes=tuple(f"{name} is no tensor and was not compared" for name in difference.others),
    )


def _counts_text(difference: Difference, names: tuple[str, str]) -> str:
    equal, values = len(difference.equal), len(difference.values)
    respecified = len(difference.respecified)
    parts = [f"{equal:,} equal", f"{values:,} with other values"]
    parts += [f"{respecified:,} of another shape or dtype"] if respecified else []
    both = counted(equal + values + respecified, "tensor")
    alone = (
        f"{len(specs):,} only in {name}"
        for name, specs in zip(names, (difference.only_first, difference.only_second), strict=True)
        if specs
    )
    unread = len(difference.incomparable)
    unreadable = [f"{unread:,} cannot be compared"] if unread else []
    return "; ".join(
        (f"{names[0]} and {names[1]}: {both} in both, {', '.join(parts)}", *alone, *unreadable)
    )


def _largest_text(values: Sequence[ValueDifference]) -> Iterator[str]:
    """The largest differences of all, which no folding may hide; but a count of batches is not
    asked for where weights differ.
    """
    floating = [value for value in values if is_floating(value.dtype)]
    asked = floating or values
    if asked:
        most = max(asked, key=lambda value: value.largest)
        relative = max(asked, key=lambda value: value.relative)
        yield (
            f"the largest difference{' of floating numbers' if len(asked) < len(values) else ''} "
            f"is {most.largest:.3g} in {most.name}; relative to its tensor {relative.relative:.3g} "
            f"in {relative.name}"
        )


def _collapsed_names(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((folded.pattern, f"{len(folded.names):,}") for folded in collapse(names))


def _specs_table(title: str, specs: Sequence[TensorSpec]) -> Table:
    rows = _collapsed_rows((spec, spec.dtype) for spec in specs)
    return Table(title, (*_TENSORS, Column("dtype")), rows, "odd")


def _respecified_table(difference: Difference, names: tuple[str, str]) -> Table:
    columns = (*_TENSORS[:2], Column(names[0]), Column(names[1]))
    rows = tuple(_respecified_rows(difference.respecified))
    return Table("another shape or dtype", columns, rows, "odd")


def _respecified_rows(
    pairs: Sequence[tuple[TensorSpec, TensorSpec]],
) -> Iterator[tuple[str, ...]]:
    """A tensor of another shape has its own row; where only dtypes differ, layers are folded."""
    folded: dict[tuple[str, str], list[TensorSpec]] = {}
    for one, other in pairs:
        if one.shape == other.shape:
            folded.setdefault((one.dtype, other.dtype), []).append(one)
        else:
            yield one.name, "1", _spec_text([one], one.dtype), _spec_text([other], other.dtype)
    for dtypes, specs in folded.items():
        by_name = {spec.name: spec for spec in specs}
        for layers in collapse(by_name):
            alike = [by_name[name] for name in layers.names]
            yield (
                layers.pattern,
                f"{len(alike):,}",
                *(_spec_text(alike, dtype) for dtype in dtypes),
            )


def _spec_text(specs: Sequence[TensorSpec], dtype: str) -> str:
    return f"{shapes_text(specs)} {dtype}"


def _values_table(difference: Difference) -> Table:
    """One row for each kind of tensor of repeated layers, told by the worst of them."""
    columns = (
        *_TENSORS[:2],
        Column("differ", number=True),
        Column("of", number=True, spare=True),
        Column("largest", number=True),
        Column("relative", number=True),
        Column("most in"),
    )
    return Table("other values", columns, tuple(_value_rows(difference.values)), "odd")


def _value_rows(values: Sequence[ValueDifference]) -> Iterator[tuple[str, ...]]:
    by_name = {value.name: value for value in values}
    for folded in _layers(by_name):
        group = [by_name[name] for name in folded.names]
        worst = max(group, key=lambda value: (value.relative, value.largest))
        yield (
            folded.pattern,
            f"{len(group):,}",
            f"{sum(value.elements for value in group):,}",
            f"{sum(value.total for value in group):,}",
            f"{max(value.largest for value in group):.3g}",
            f"{worst.relative:.3g}",
            _without_shared_end(worst.name, folded.names) if len(group) > 1 else "",
        )


def _without_shared_end(name: str, names: Sequence[str]) -> str:
    """The name without the last segments that all have: ``blocks.2`` of the pattern
    ``blocks.{0..11}.attn.qkv.weight``.
    """
    segments = name.split(".")
    others = [other.split(".") for other in names]
    while len({parts.pop() for parts in others}) == 1 and all(others):
        segments.pop()
    return ".".join(segments)


def _layers(names: Iterable[str]) -> list[Collapsed]:
    """Patterns of repeated layers in the order of the names, weights and biases apart: they
    differ by other amounts, and a count of batches by thousands.
    """
    order = {name: at for at, name in enumerate(names)}
    leaves: dict[str, list[str]] = {}
    for name in order:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    folded = [pattern for found in leaves.values() for pattern in collapse(found)]
    return sorted(folded, key=lambda pattern: order[pattern.names[0]])


# Identification -------------------------------------------------------------------------------


def identification_report(found: Identification, *, heading: Sequence[str] = ()) -> Report:
    """The best candidates with their shares, who is the same as whom, and what the best differs in.

    Shares are cut, never rounded up: 100% is said of nothing less.
    """
    columns = (
        Column("architecture"),
        Column("share", number=True),
        Column("of architecture", number=True),
        Column("of file", number=True),
        Column("head"),
        Column("what differs"),
    )
    rows = tuple(_candidate_row(candidate) for candidate in found.candidates)
    best = found.candidates[0] if found.candidates else None
    return Report(
        (*heading, _identified_text(found)),
        (
            Table("nearest", columns, rows, "good" if found.fits else "odd"),
            *(_differing_tables(best) if best and found.fits else ()),
        ),
        tuple(_identification_notes(found)),
    )


def _identified_text(found: Identification) -> str:
    compared = f"{counted(found.tensors, 'tensor')} compared with {found.known:,} architectures"
    if not found.fits:
        return f"nothing known fits: {compared}, none of which is at least half in this file"
    best = found.candidates[0]
    more = len(best.architectures) - 1
    also = f" (and {more} more that are the same)" if more else ""
    below = f", below {best.prefix.removesuffix('.')}" if best.prefix else ""
    whole = "every tensor" if best.is_whole else percent_text(best.share)
    head = {"other": ", with another head", "missing": ", without its head"}.get(best.head, "")
    return f"{best.architectures[0]}{also}: {whole}{head}{below}; {compared}"


def _candidate_row(candidate: Candidate) -> tuple[str, ...]:
    more = len(candidate.architectures) - 1
    return (
        candidate.architectures[0] + (f" +{more}" if more else ""),
        percent_text(candidate.share),
        percent_text(candidate.of_architecture),
        percent_text(candidate.of_file),
        candidate.head if candidate.head != "none" else "",
        _differing_text(candidate.differing),
    )


def percent_text(share: float) -> str:
    """A share as per cent, cut to two digits: less than all is never 100%."""
    return "100%" if share == 1 else f"{int(share * 10_000) / 100:.2f}%"


def _differing_text(differing: Sequence[Differing]) -> str:
    counts = Counter(_how_differing(tensor) for tensor in differing)
    return ", ".join(f"{counts[how]:,} {how}" for how in _DIFFERENCES if counts[how]) or "nothing"


_DIFFERENCES = ("of another shape", "missing", "more in the file")


def _how_differing(tensor: Differing) -> str:
    if tensor.in_file is None:
        return "missing"
    return "more in the file" if tensor.in_architecture is None else "of another shape"


def _differing_tables(best: Candidate) -> Iterator[Table]:
    """Titles as in the column above; a shape each, folded by layer."""
    for how, title in zip(
        _DIFFERENCES,
        (
            "of another shape than in {}",
            "in {}, and missing in the file",
            "in the file, and not in {}",
        ),
        strict=True,
    ):
        tensors = [tensor for tensor in best.differing if _how_differing(tensor) == how]
        rows = _collapsed_rows((_shown_spec(t), _expected_text(t)) for t in tensors)
        columns = (*_TENSORS, Column("expected")) if how == _DIFFERENCES[0] else _TENSORS
        cut = tuple(row[: len(columns)] for row in rows)
        yield Table(title.format(best.architectures[0]), columns, cut, "odd")


def _shown_spec(tensor: Differing) -> TensorSpec:
    shape = tensor.in_architecture if tensor.in_file is None else tensor.in_file
    return TensorSpec(tensor.name, shape or (), "float32")


def _expected_text(tensor: Differing) -> str:
    shape = tensor.in_architecture if tensor.in_file is not None else None
    return "" if shape is None else f"({', '.join(map(str, shape))})"


def _identification_notes(found: Identification) -> Iterator[str]:
    best = found.candidates[0] if found.fits else None
    if best and len(best.architectures) > 1:
        yield (
            "their weights have the same names and shapes, so the file cannot tell them apart: "
            + ", ".join(best.architectures)
        )
    for architecture, why in found.unknown:
        yield f"{architecture} could not be built here and was not compared: {why}"
