"""Rules and a model's spec to parameter groups: who trains, how fast, and which line says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.errors import OptimizerError, Problem, RuleError, SelectorError, did_you_mean
from surgery.patterns import spec_of, statuses
from surgery.specs import ModelSpec
from surgery.tuning.group_names import group_names, rules_behind
from surgery.tuning.history import Firing, History, Hyper, When, tell_histories
from surgery.tuning.matching import (
    Match,
    match_rules,
    tied_disagreements,
    uncovered,
    without_effect,
)
from surgery.tuning.norms import HeldNorm, held_norms
from surgery.tuning.optimizer_names import DEFAULT_OPTIMIZER, OptimizerChoice, find_optimizer
from surgery.tuning.origin import opened
from surgery.tuning.rules import Rules, RulesSource, read_what_can_be
from surgery.tuning.settings import can_be_built, read_settings, taken_for_granted
from surgery.tuning.stages import layer_depths
from surgery.tuning.state_size import state_bytes
from surgery.tuning.warnings import all_warnings, risks
from surgery.wrappers import unwrap_name

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class RuleLine:
    """A line of the rules that had a word in a group."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share every hyper-parameter, in model order.

    ``when`` is ``"train"``, ``"frozen"`` or the epoch at which training starts. A frozen group
    is shown but never reaches the optimizer, so its ``hyper`` is empty and its state 0 bytes;
    ``frozen_by_model`` says that no rule froze it. ``param_names`` are as ``named_parameters``
    shows them. ``state_bytes`` is None where the optimizer cannot be asked.
    """

    name: str
    param_names: tuple[str, ...]
    hyper: Hyper
    when: When
    frozen_by_model: bool
    parameters: int
    nbytes: int
    state_bytes: int | None
    lines: tuple[RuleLine, ...]

    @property
    def tensors(self) -> int:
        """Number of tensors; a tied parameter is one."""
        return len(self.param_names)

    @property
    def frozen(self) -> bool:
        """Whether the group never trains."""
        return self.when == "frozen"

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON values."""
        return {
            "name": self.name,
            "when": self.when,
            "frozen_by_model": self.frozen_by_model,
            "hyper": {key: _json(value) for key, value in self.hyper},
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.nbytes,
            "state_bytes": self.state_bytes,
            "lines": [{"line": rule.line, "text": rule.text} for rule in self.lines],
            "param_names": list(self.param_names),
        }


@dataclass(frozen=True)
class ParamGroups:
    """Every parameter of a model in exactly one group, in model order.

    ``optimizer`` finds the optimizer again by name, and ``base`` are the keys it is made with.
    ``norms`` are those that stay in eval mode, ``histories`` what happened to each parameter
    (see :func:`why`), ``warnings`` what is allowed and probably not meant, of which ``risks``
    are those that :func:`surgery.build_optimizer` warns of as well. ``choice`` is the optimizer
    itself, which may be a class that no name finds.
    """

    groups: tuple[Group, ...]
    optimizer: str
    base: Hyper
    rules: Rules
    norms: tuple[HeldNorm, ...]
    histories: tuple[History, ...]
    warnings: tuple[str, ...]
    risks: tuple[str, ...] = ()
    choice: OptimizerChoice | None = field(default=None, compare=False, repr=False)

    @property
    def trained(self) -> tuple[Group, ...]:
        """The groups that the optimizer gets, those that are unfrozen later included."""
        return tuple(group for group in self.groups if not group.frozen)

    @property
    def bn_eval(self) -> tuple[str, ...]:
        """Paths of the norms that start in eval mode and stay there through ``train()``."""
        return self.bn_eval_at(0)

    def bn_eval_at(self, epoch: int) -> tuple[str, ...]:
        """Paths of the norms that are in eval mode during an epoch, counted from 0."""
        return tuple(norm.path for norm in self.norms if norm.until is None or epoch < norm.until)

    @property
    def tensors(self) -> int:
        return sum(group.tensors for group in self.groups)

    @property
    def parameters(self) -> int:
        """Elements of all parameters, a tied one once."""
        return sum(group.parameters for group in self.groups)

    @property
    def trained_parameters(self) -> int:
        """Elements that the optimizer gets."""
        return sum(group.parameters for group in self.trained)

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for group in self.groups)

    @property
    def state_bytes(self) -> int | None:
        """Bytes of optimizer state once everything trains; None where a group's is unknown."""
        sizes = [group.state_bytes for group in self.groups]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def to_dict(self) -> dict[str, Any]:
        """The groups as JSON values."""
        return {
            "optimizer": self.optimizer,
            "base": {key: _json(value) for key, value in self.base},
            "rules": self.rules.path,
            "model": self.rules.model,
            "groups": [group.to_dict() for group in self.groups],
            "bn_eval": [{"path": norm.path, "until": norm.until} for norm in self.norms],
            "warnings": list(self.warnings),
            "total": {
                "tensors": self.tensors,
                "parameters": self.parameters,
                "trained_parameters": self.trained_parameters,
                "bytes": self.nbytes,
                "state_bytes": self.state_bytes,
            },
        }

    def __str__(self) -> str:
        from surgery.report.groups import groups_report

        return groups_report(self).text()


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def why(groups: ParamGroups, name: str) -> tuple[Firing, ...]:
    """What fired for a parameter, in order, with each attribute's value after it.

    Any of a tied parameter's names will do, wrapped or not. The first entries, with line 0
    where no ``base`` line said so, are where its hyper-parameters start.
    """
    wanted = unwrap_name(name)
    known: dict[str, History] = {}
    for history in groups.histories:
        known.update((unwrap_name(alias), history) for alias in history.parameter.aliases)
    if wanted not in known:
        raise SelectorError(f"no parameter is called {name!r}{did_you_mean(wanted, known, 2)}")
    return known[wanted].firings


def resolve_groups(
    model: nn.Module | ModelSpec,
    rules: RulesSource,
    *,
    transfer: object | None = None,
    optimizer: str | type[torch.optim.Optimizer] | None = None,
    base: Mapping[str, Any] | None = None,
) -> ParamGroups:
    """Decide, from names and shapes alone, which parameters train and how; nothing is touched.

    ``rules`` is a path, text, lines or :class:`Rules`; ``transfer`` is what
    :func:`surgery.transfer` or :func:`surgery.replace_head` returned, name to ``"loaded"``,
    ``"adapted"`` or ``"fresh"``, a file that a transfer wrote (its path, or opened), or a list
    of these, see :func:`surgery.patterns.statuses`.
    ``optimizer`` and ``base`` overrule the ``base`` lines. Where nobody names an optimizer it
    is torch's AdamW, and a rate that nobody gives is the optimizer's own.

    Raises :class:`~surgery.errors.RuleError` with everything wrong in the rules at once (lines
    that can be read are held against the model even where others cannot), and
    :class:`~surgery.errors.OptimizerError` for what the call itself asked.
    """
    spec = spec_of(model)
    rules, unreadable = read_what_can_be(rules)
    status = statuses(opened(transfer), spec)
    found, unmatched = match_rules(rules, spec, status)
    faulty = (*unreadable, *unmatched)
    try:
        choice = _choice(optimizer, rules)
        settings = read_settings(rules, base or {}, choice)
    except RuleError as error:
        raise RuleError(rules.path, (*faulty, *error.problems)) from error
    problems = (
        *faulty,
        *settings.problems,
        # What a line that cannot be read would have said is not known.
        *(() if unreadable else _contradictions(rules, found, spec)),
    )
    if problems:
        raise RuleError(rules.path, problems)
    histories = tell_histories(spec, found, settings.start, _depths_above(rules, spec))
    groups = _merge(histories, choice, settings.keys)
    _check_values(groups, histories, choice, settings.keys, rules)
    norms = held_norms(spec, found, histories)
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
            *all_warnings(spec, rules, found, histories, norms, status),
        ),
        risks=risks(spec, found, histories, status),
        choice=choice,
    )


def _contradictions(rules: Rules, found: Sequence[Match], spec: ModelSpec) -> Iterable[Problem]:
    yield from without_effect(found, spec)
    yield from tied_disagreements(found, spec)
    yield from _not_covered(rules, found, spec)


def _choice(optimizer: str | type[torch.optim.Optimizer] | None, rules: Rules) -> OptimizerChoice:
    """The call's optimizer, else the rules', else the default; a rule's error has its line."""
    if optimizer is not None or rules.optimizer is None:
        return find_optimizer(optimizer or DEFAULT_OPTIMIZER)
    try:
        return find_optimizer(rules.optimizer)
    except OptimizerError as error:
        problem = Problem(rules.optimizer_line, error.message)
        raise RuleError(rules.path, [problem]) from error


def _not_covered(rules: Rules, found: Sequence[Match], spec: ModelSpec) -> Iterable[Problem]:
    missed = uncovered(found, spec) if rules.default == "error" else ()
    if missed:
        names = ", ".join(parameter.name for parameter in missed[:3])
        more = ", ..." if len(missed) > 3 else ""
        count = f"{len(missed)} of {len(spec.parameters)} parameters"
        yield Problem(rules.default_line, f"no rule names {count}: {names}{more}")


def _depths_above(rules: Rules, spec: ModelSpec) -> Mapping[str, int]:
    """Parameter name to the number of depths above it, up to the deepest; empty where unused."""
    if not any(action.kind == "decay" for rule in rules.rules for action in rule.actions):
        return {}
    depths = layer_depths(spec)
    deepest = max(depths.values(), default=0)
    return {name: deepest - depth for name, depth in depths.items()}


def _merge(
    histories: Iterable[History], choice: OptimizerChoice, base: Mapping[str, Any]
) -> tuple[Group, ...]:
    """Equal outcomes are one group: foreach and fused kernels work on whole groups."""
    merged: dict[object, list[History]] = {}
    for history in histories:
        merged.setdefault(_outcome(history), []).append(history)
    members = tuple(merged.values())
    return tuple(
        _group(name, group, choice, base)
        for name, group in zip(group_names(members), members, strict=True)
    )


def _outcome(history: History) -> object:
    hyper = () if history.when == "frozen" else history.hyper
    return history.when, history.frozen_by_model, history.name, hyper


def _group(
    name: str, members: Sequence[History], choice: OptimizerChoice, base: Mapping[str, Any]
) -> Group:
    first = members[0]
    frozen = first.when == "frozen"
    tensors = [member.parameter.tensor for member in members]
    hyper = () if frozen else first.hyper
    return Group(
        name=name,
        param_names=tuple(tensor.name for tensor in tensors),
        hyper=hyper,
        when=first.when,
        frozen_by_model=first.frozen_by_model,
        parameters=sum(tensor.numel for tensor in tensors),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        state_bytes=0 if frozen else state_bytes(choice, base, dict(hyper), tensors),
        lines=tuple(RuleLine(rule.line, rule.text) for rule in rules_behind(members).values()),
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
            line = _refused_line(by_name[group.param_names[0]], hyper, choice, base)
            problems.append(Problem(line, f"group {group.name!r}: {error.message}"))
    if problems:
        raise RuleError(rules.path, problems)


def _refused_line(
    history: History, hyper: Mapping[str, Any], choice: OptimizerChoice, base: Mapping[str, Any]
) -> int:
    """The last line that set the value which the optimizer refuses; the last of all if unclear."""
    ruled = {firing.attribute: firing.line for firing in history.firings if firing.line}
    for key in ruled.keys() & hyper.keys():
        rest = {name: value for name, value in hyper.items() if name != key}
        if can_be_built(choice, {**base, **rest}):
            return ruled[key]
    return max((rule.line for rule in history.rules), default=0)
