"""Rules and a model's spec to parameter groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint import open_checkpoint
from surgery.errors import OptimizerError, Problem, RuleError
from surgery.networks.selection import heads_of, spec_of, statuses
from surgery.specs import ModelSpec
from surgery.tuning.contradictions import contradictions, uncovered
from surgery.tuning.groups import Group, ParamGroups
from surgery.tuning.history import History, held_norms, run_rules
from surgery.tuning.matching import Match, match_rules
from surgery.tuning.rules import Rule, Rules, RulesSource, read_what_can_be
from surgery.tuning.settings import read_settings, refused_line, taken_for_granted
from surgery.tuning.warnings import oddities, risks
from surgery.wording import counted_names
from surgery.wrappers import unwrap_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.tuning.optimizer_choice import OptimizerChoice


def resolve_groups(
    model: nn.Module | ModelSpec,
    rules: RulesSource,
    *,
    transfer: object | None = None,
    optimizer: str | type[torch.optim.Optimizer] | None = None,
    base: Mapping[str, Any] | None = None,
    heads: Sequence[str] | None = None,
) -> ParamGroups:
    """Decide, from names and shapes alone, which parameters train and how; nothing is touched.

    ``rules`` is a path, text, lines or :class:`Rules`; ``transfer`` is what
    :func:`surgery.transfer` or :func:`surgery.replace_head` returned, name to ``"loaded"``,
    ``"resized"`` or ``"fresh"``, a file that a transfer wrote (its path, or opened), or a list
    of these, see :func:`surgery.networks.selection.statuses`. ``heads`` are the paths of the
    head, for ``:head``; a live model is asked for its own where a rule needs it.
    ``optimizer`` and ``base`` overrule the ``base`` lines. Where nobody names an optimizer it
    is torch's AdamW, and a learning rate that nobody gives is the optimizer's own.

    Raises :class:`~surgery.errors.RuleError` with everything wrong in the rules at once (lines
    that can be read are held against the model even where others cannot), and
    :class:`~surgery.errors.OptimizerError` for what the call itself asked.
    """
    spec = spec_of(model)
    rules, unreadable = read_what_can_be(rules)
    heads = heads or heads_of(model, (rule.selector for rule in rules.rules))
    status = statuses(_opened(transfer), spec)
    found, unmatched = match_rules(rules, spec, status, heads)
    problems = [*unreadable, *unmatched]
    try:
        choice = _choice(optimizer, rules)
        settings = read_settings(rules, base or {}, choice)
    except RuleError as error:
        raise RuleError(rules.path, (*problems, *error.problems)) from error
    problems += settings.problems
    if not unreadable:  # what a line that cannot be read would have said is not known
        problems += (*contradictions(found, spec), *_not_covered(rules, found, spec))
    if problems:
        raise RuleError(rules.path, problems)
    histories = run_rules(spec, found, settings.start)
    groups = _merge(histories, choice, settings.keys)
    _check_values(groups, histories, choice, settings.keys, rules)
    norms = held_norms(spec, found, histories)
    spoiling = risks(spec, found, histories, status)
    return ParamGroups(
        groups=groups,
        optimizer=choice.name,
        base=tuple(settings.keys.items()),
        rules=rules,
        norms=norms,
        histories=histories,
        warnings=(
            *taken_for_granted(
                settings, choice, histories, named=bool(optimizer or rules.optimizer)
            ),
            *oddities(spec, rules, found, histories, norms),
            *spoiling,
        ),
        risks=spoiling,
        choice=choice,
    )


def _opened(transfer: object) -> object:
    """Paths as checkpoints, alone or in a list or tuple; everything else as it is."""
    if isinstance(transfer, (list, tuple)):
        return [_opened(part) for part in transfer]
    return open_checkpoint(transfer) if isinstance(transfer, (str, Path)) else transfer


def _choice(optimizer: str | type[torch.optim.Optimizer] | None, rules: Rules) -> OptimizerChoice:
    """The call's optimizer, else the rules', else the default; a rule's error has its line."""
    from surgery.tuning.optimizer_choice import DEFAULT_OPTIMIZER, find_optimizer

    if optimizer is not None or rules.optimizer is None:
        return find_optimizer(optimizer or DEFAULT_OPTIMIZER)
    try:
        return find_optimizer(rules.optimizer)
    except OptimizerError as error:
        raise RuleError(rules.path, [Problem(rules.lines["optimizer"], error.message)]) from error


def _not_covered(rules: Rules, found: Sequence[Match], spec: ModelSpec) -> Iterator[Problem]:
    if rules.default == "error" and (missed := uncovered(found, spec)):
        names = counted_names([parameter.name for parameter in missed])
        yield Problem(rules.lines["default"], f"no rule names {names} of {len(spec.parameters)}")


def _merge(
    histories: Iterable[History], choice: OptimizerChoice, base: Mapping[str, Any]
) -> tuple[Group, ...]:
    """Equal outcomes are one group: foreach and fused kernels work on whole groups."""
    merged: dict[object, list[History]] = {}
    for history in histories:
        outcome = history.when, history.frozen_by_model, history.name, history.hyper
        merged.setdefault(outcome, []).append(history)
    members = tuple(merged.values())
    names = _names(members)
    return tuple(_group(*each, choice, base) for each in zip(names, members, strict=True))


def _group(
    name: str, members: Sequence[History], choice: OptimizerChoice, base: Mapping[str, Any]
) -> Group:
    first = members[0]
    tensors = [member.parameter.tensor for member in members]
    frozen, keys = first.when == "frozen", {**base, **dict(first.hyper)}
    return Group(
        name=name,
        param_names=tuple(tensor.name for tensor in tensors),
        hyper=first.hyper,
        when=first.when,
        frozen_by_model=first.frozen_by_model,
        parameters=sum(tensor.numel for tensor in tensors),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        state_bytes=0 if frozen else choice.state_bytes(keys, tensors),
        lines=tuple(_rules_behind(members).values()),
    )


def _names(groups: Sequence[Sequence[History]]) -> tuple[str, ...]:
    """One name for each group of parameters, in order.

    ``name=ID`` where a rule gave one, else where the parameters are: their common path, or the
    first and the last of the model's children that have some (``conv1..layer4``). Groups that
    would be called the same also carry the selector that distinguishes them
    (``blocks.0 & :1d``), and a number where that is not enough.
    """
    places = [members[0].name or _place(members) for members in groups]
    names: dict[str, None] = {}
    for index, place in enumerate(places):
        selector = _distinction(index, places, groups)
        name = f"{place} & {selector}" if selector else place
        numbers = chain([name], (f"{name} #{number}" for number in count(2)))
        names[next(free for free in numbers if free not in names)] = None
    return tuple(names)


def _place(members: Sequence[History]) -> str:
    paths = [unwrap_name(member.parameter.name).split(".") for member in members]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return ".".join(level[0] for level in levels) or f"{paths[0][0]}..{paths[-1][0]}"


def _distinction(
    index: int, places: Sequence[str], groups: Sequence[Sequence[History]]
) -> str | None:
    """The last selector that fired here and not in every group of the same place."""
    rivals = [group for place, group in zip(places, groups, strict=True) if place == places[index]]
    if len(rivals) == 1:
        return None
    shared = set.intersection(*(set(_rules_behind(rival)) for rival in rivals))
    own = [
        rule
        for line, rule in _rules_behind(groups[index]).items()
        if line not in shared and any(action.kind != "bn" for action in rule.actions)
    ]
    return own[-1].selector.text if own else None


def _rules_behind(members: Sequence[History]) -> dict[int, Rule]:
    """The rules that fired for any of the members, by line, in line order."""
    found = {rule.line: rule for member in members for rule in member.rules}
    return dict(sorted(found.items()))


def _check_values(
    groups: Iterable[Group],
    histories: Iterable[History],
    choice: OptimizerChoice,
    base: Mapping[str, Any],
    rules: Rules,
) -> None:
    """Check what torch does not: it looks at the values that an optimizer is made with only."""
    by_name = {history.parameter.name: history for history in histories}
    problems = []
    for group in groups:
        hyper = {key: value for key, value in group.hyper if key in choice.signature}
        try:
            choice.defaults({**base, **hyper})
        except OptimizerError as error:
            history = by_name[group.param_names[0]]
            lines = {firing.attribute: firing.line for firing in history.firings if firing.line}
            line = refused_line(choice, base, hyper, lines)
            last = max((rule.line for rule in history.rules), default=0)
            problems.append(Problem(line or last, f"group {group.name!r}: {error.message}"))
    if problems:
        raise RuleError(rules.path, problems)
