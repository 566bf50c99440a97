"""Rules and a model's spec to parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint import open_checkpoint
from surgery.errors import OptimizerError, Problem, RuleError
from surgery.networks.selection import heads_of, spec_of, statuses
from surgery.specs import ModelSpec, TensorSpec
from surgery.tuning.contradictions import contradictions, uncovered
from surgery.tuning.group_names import group_names, rules_behind
from surgery.tuning.groups import Group, ParamGroups
from surgery.tuning.history import History, run_rules
from surgery.tuning.matching import Match, match_rules
from surgery.tuning.norms import held_norms
from surgery.tuning.rules import Rules, RulesSource, read_what_can_be
from surgery.tuning.settings import read_settings, refused_line, taken_for_granted
from surgery.tuning.warnings import oddities, risks
from surgery.wording import counted_names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.tuning.optimizer_names import OptimizerChoice

#: Bytes of optimizer state for tensors under a group's own hyper-parameters.
_StateBytes = Callable[[Mapping[str, Any], Iterable[TensorSpec]], int | None]


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
    from surgery.tuning.state_size import state_bytes

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
    groups = _merge(histories, partial(state_bytes, choice, settings.keys))
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
    from surgery.tuning.optimizer_names import DEFAULT_OPTIMIZER, find_optimizer

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


def _merge(histories: Iterable[History], size: _StateBytes) -> tuple[Group, ...]:
    """Equal outcomes are one group: foreach and fused kernels work on whole groups."""
    merged: dict[object, list[History]] = {}
    for history in histories:
        outcome = history.when, history.frozen_by_model, history.name, history.hyper
        merged.setdefault(outcome, []).append(history)
    members = tuple(merged.values())
    names = group_names(members)
    return tuple(_group(*each, size) for each in zip(names, members, strict=True))


def _group(name: str, members: Sequence[History], size: _StateBytes) -> Group:
    first = members[0]
    tensors = [member.parameter.tensor for member in members]
    return Group(
        name=name,
        param_names=tuple(tensor.name for tensor in tensors),
        hyper=first.hyper,
        when=first.when,
        frozen_by_model=first.frozen_by_model,
        parameters=sum(tensor.numel for tensor in tensors),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        state_bytes=0 if first.when == "frozen" else size(dict(first.hyper), tensors),
        lines=tuple(rules_behind(members).values()),
    )


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
        hyper = {key: value for key, value in group.hyper if key in choice.accepted}
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
