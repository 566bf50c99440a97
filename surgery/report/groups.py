"""Parameter groups, the rules behind them, and why a parameter is where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from surgery.collapse import patterns
from surgery.report.tables import Cell, Columns, Report, Table, number
from surgery.showing import Shown
from surgery.tuning import Firing, Group, ParamGroups, Rule, Rules
from surgery.tuning.history import When
from surgery.wording import bytes_text, counted, value_text


def groups_report(groups: ParamGroups) -> Report:
    """One row a group, the rules behind them, and what is allowed but probably not meant."""
    state = "unknown" if groups.state_bytes is None else bytes_text(groups.state_bytes)
    total = (
        f"{groups.optimizer}: {groups.trained_parameters:,} of {groups.parameters:,} parameters "
        f"train, in {counted(len(groups.trained), 'group')}; "
        f"{bytes_text(groups.nbytes)}, and {state} of optimizer state"
    )
    shared, own = _hyper_keys(groups)
    return Report(
        headline=[total, *shared],
        tables=[_groups_table(groups, own), _rules_table(groups.rules)],
        notes=[*_norm_notes(groups), *groups.warnings],
    )


def _hyper_keys(groups: ParamGroups) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A line on the hyper-parameters in which no group differs, and the keys of the others;
    the learning rate and the weight decay always have a column.
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
        f"{patterns(paths, len(paths))}"
        for until, paths in by_end.items()
    ]


def _groups_table(groups: ParamGroups, own: Sequence[str]) -> Table:
    columns: Columns = (
        "group",
        number("tensors", spare=True),
        number("parameters"),
        number("bytes", spare=True),
        number("state", spare=True),
        *map(number, ("lr", "wd", *own)),
        "trains",
        "lines",
    )
    return Table("groups", columns, [_group_row(group, own) for group in groups.groups], "good")


def _group_row(group: Group, own: Sequence[str]) -> tuple[Cell, ...]:
    hyper = dict(group.hyper)
    return (
        group.name,
        group.tensors,
        group.parameters,
        bytes_text(group.nbytes),
        "?" if group.state_bytes is None else bytes_text(group.state_bytes),
        *(value_text(hyper.get(key)) for key in ("lr", "weight_decay", *own)),
        _when_text(group),
        ", ".join(str(line.line) for line in group.lines) or "base",
    )


def _when_text(group: Group) -> str:
    if group.when == "frozen":
        return "frozen (by the model)" if group.frozen_by_model else "frozen"
    return start_text(group.when)


def start_text(when: When) -> str:
    return "yes" if when == "train" else f"from epoch {when}"


def _rules_table(rules: Rules) -> Table:
    rows = [(str(rule.line), rule.text, _reading(rule)) for rule in rules.rules]
    return Table(f"rules of {rules.path}", (number("line"), "rule", "selector read as"), rows)


def _reading(rule: Rule) -> str:
    if rule.points:
        return "split points"
    return ", ".join(dict.fromkeys(atom.kind for atom in rule.selector.atoms))


@dataclass(frozen=True, slots=True)
class Why(Shown):
    """What :func:`surgery.tuning.why` found for each parameter that a selector means: every action
    on it, in order.
    """

    selector: str
    actions: Mapping[str, tuple[Firing, ...]]

    def to_dict(self) -> dict[str, Any]:
        """The actions as JSON values; of a single parameter at the top as well."""
        found = [
            {"parameter": name, "fired": [asdict(each) for each in fired]}
            for name, fired in self.actions.items()
        ]
        alone = found[0] if len(found) == 1 else {}
        return {**alone, "selector": self.selector, "parameters": found}


def why_report(why: Why) -> Report:
    """The lines that name the parameters, in order, and each attribute's value after its line; one
    table for all parameters to which the same happened.
    """
    names: dict[tuple[Firing, ...], list[str]] = {}
    for name, fired in why.actions.items():
        names.setdefault(fired, []).append(name)
    columns = (number("line"), "rule", "action", "attribute", "value")
    tables = [
        Table(
            f"{patterns(those)}: rules applied, in order",
            columns,
            [
                (
                    str(each.line or ""),
                    each.text,
                    each.action,
                    each.attribute,
                    value_text(each.value),
                )
                for each in fired
            ],
        )
        for fired, those in names.items()
    ]
    return Report([why.selector], tables)
