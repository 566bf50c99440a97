"""Which parameters and norms each rule means, and what is wrong with rules that mean none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgery.errors import Problem, SelectorError
from surgery.patterns import (
    Selector,
    Subject,
    alias_subjects,
    check_answerable,
    matches,
    module_subjects,
    parameter_subjects,
    unmet_atoms,
    why_nothing,
)
from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning.actions import Action, ActionError, Value
from surgery.tuning.differential import differential_rates
from surgery.tuning.rules import Rule, Rules

#: A parameter by its index in the spec, or a norm with running statistics by its path.
Target = int | str


@dataclass(frozen=True, slots=True)
class Match:
    """What one rule means: indices into ``spec.parameters``, and paths of stateful norms.

    ``aliases`` are, for the tied parameters among them, the names by which it means them;
    ``rates`` what each gets where the rule has one rate for each stage or part of the model.
    """

    rule: Rule
    parameters: tuple[int, ...]
    norms: tuple[str, ...]
    aliases: Mapping[int, frozenset[str]]
    rates: Mapping[int, float] = field(default_factory=dict)

    def targets(self, action: Action) -> tuple[Target, ...]:
        """What the action changes. Freezing reaches a norm that has statistics alone too."""
        if action.kind == "bn":
            return self.norms
        if action.kind == "when":
            return (*self.parameters, *self.norms)
        return self.parameters

    def value(self, action: Action, parameter: int) -> Value:
        """The value that the action has for one of the parameters."""
        return self.rates[parameter] if action.is_differential else action.value

    def effects(self, action: Action) -> Iterator[tuple[Target, str, str]]:
        """Target, alias and attribute: a line for one alias takes nothing from the others'."""
        for target in self.targets(action):
            names = self.aliases.get(target, ("",)) if isinstance(target, int) else ("",)
            for name in names:
                yield target, name, action.attribute


def match_rules(
    rules: Rules, spec: ModelSpec, status: Mapping[str, str] | None
) -> tuple[tuple[Match, ...], tuple[Problem, ...]]:
    """Every rule with what it means, and a problem for each that means nothing.

    A rule whose question cannot be asked of this model is a problem and not among the matches.
    """
    parameters = parameter_subjects(spec, status)
    modules = module_subjects(spec, status)
    tied = {
        index: alias_subjects(spec, parameter, status)
        for index, parameter in enumerate(spec.parameters)
        if len(parameter.aliases) > 1
    }
    found: list[Match] = []
    problems: list[Problem] = []
    for rule in rules.rules:
        try:
            check_answerable(rule.selector, spec, status)
        except SelectorError as error:
            problems.append(Problem(rule.line, error.message))
            continue
        match = _match(rule, spec, parameters, modules, tied)
        try:
            rates = differential_rates(rule, match.parameters, spec)
        except ActionError as error:
            problems.append(Problem(rule.line, str(error)))
            continue
        found.append(replace(match, rates=rates))
        if not rule.optional:
            unmet = tuple(unmet_atoms(rule.selector, (*parameters, *modules)))
            problems.extend(Problem(rule.line, message) for message in unmet)
            problems.extend(() if unmet else _dead_actions(match))
    return tuple(found), tuple(problems)


def _match(
    rule: Rule,
    spec: ModelSpec,
    parameters: Sequence[Subject],
    modules: Sequence[Subject],
    tied: Mapping[int, Mapping[str, Subject]],
) -> Match:
    indices = tuple(
        index for index, subject in enumerate(parameters) if matches(rule.selector, subject)
    )
    return Match(
        rule,
        indices,
        tuple(
            module.path
            for module, subject in zip(spec.modules, modules, strict=True)
            if module.has_statistics and matches(rule.selector, subject)
        ),
        {index: _meant(rule.selector, tied[index]) for index in indices if index in tied},
    )


def _meant(selector: Selector, subjects: Mapping[str, Subject]) -> frozenset[str]:
    """The names that the selector means by themselves; all where only together they fit it."""
    names = {alias for alias, subject in subjects.items() if matches(selector, subject)}
    return frozenset(names or subjects)


def _dead_actions(match: Match) -> Iterator[Problem]:
    rule = match.rule
    if not match.parameters and not match.norms:
        yield Problem(rule.line, why_nothing(rule.selector))
        return
    for action in rule.actions:
        if not match.targets(action):
            what = "norm with running statistics" if action.kind == "bn" else "parameter"
            yield Problem(
                rule.line, f"{action.text!r} has no effect: {rule.selector.text!r} means no {what}"
            )


def without_effect(
    found: Sequence[Match], spec: ModelSpec, *, frozen_below: bool = False
) -> Iterator[Problem]:
    """Rules of which nothing is left: later lines overwrite it, or what it scales never trains.

    A rule that also reaches something that trains is fine. Where nothing trains at all that is
    the thing to say, and no rule's fault. What a line further down freezes counts only with
    ``frozen_below``: people switch a part off below the rates that they keep for later.
    """
    frozen = frozen_for_good(found, spec)
    never = {} if len(frozen) == len(spec.parameters) else frozen
    later: dict[_Effect, int] = {}
    for match in reversed(found):
        still = {i: line for i, line in never.items() if frozen_below or line < match.rule.line}
        reasons = [
            _lost(action, effect, later, still, spec)
            for action in match.rule.actions
            for effect in match.effects(action)
        ]
        if reasons and all(reasons):
            yield Problem(
                match.rule.line, f"{match.rule.text!r} has no effect: {_because(reasons)}"
            )
        for action in match.rule.actions:
            if action.overwrites:
                for effect in match.effects(action):
                    later.setdefault(effect, match.rule.line)


#: Target, alias and attribute, as in :meth:`Match.effects`.
_Effect = tuple[Target, str, str]


def frozen_for_good(found: Sequence[Match], spec: ModelSpec) -> dict[int, int]:
    """Index of every parameter that never trains, to the line that says so, 0 for the model."""
    frozen = {
        index: 0
        for index, parameter in enumerate(spec.parameters)
        if not (parameter.trainable and parameter.tensor.is_floating)
    }
    for match in found:
        for action in match.rule.actions:
            for index in match.parameters if action.kind == "when" else ():
                if action.value == "frozen":
                    frozen[index] = match.rule.line
                elif spec.parameters[index].tensor.is_floating:
                    frozen.pop(index, None)
    return frozen


def _lost(
    action: Action,
    effect: _Effect,
    later: Mapping[_Effect, int],
    frozen: Mapping[int, int],
    spec: ModelSpec,
) -> int | str | None:
    """Why an effect comes to nothing: the line that overwrites it, a reason; None if it counts."""
    if effect in later:
        return later[effect]
    target = effect[0]
    if not isinstance(target, int):
        return None
    if not spec.parameters[target].tensor.is_floating:
        trains = action.kind == "when" and action.value != "frozen"
        return "integers have no gradient" if trains or action.is_hyper else None
    if not action.is_hyper or target not in frozen:
        return None
    if frozen[target]:
        return f"line {frozen[target]} freezes it"
    return "the model has requires_grad off there, and no rule says `train`"


def _because(reasons: Sequence[int | str | None]) -> str:
    lines = sorted({reason for reason in reasons if isinstance(reason, int)})
    others = dict.fromkeys(reason for reason in reasons if isinstance(reason, str))
    return "; ".join([*([f"overwritten by {_lines(lines)}"] if lines else []), *others])


def _lines(lines: Sequence[int]) -> str:
    word = "line" if len(lines) == 1 else "lines"
    return f"{word} {', '.join(map(str, lines))}"


def uncovered(found: Sequence[Match], spec: ModelSpec) -> tuple[ParameterSpec, ...]:
    """The parameters that no rule means, in model order."""
    named = {index for match in found for index in match.parameters}
    return tuple(p for index, p in enumerate(spec.parameters) if index not in named)


def tied_disagreements(found: Sequence[Match], spec: ModelSpec) -> Iterator[Problem]:
    """Rules that would give one tied parameter two values, each under another of its names.

    A later ``=`` that means every name is an exception to what came before and settles it. Two
    that mean different names settle nothing: which of them wins would hang on their order.
    """
    for index, parameter in enumerate(spec.parameters):
        if len(parameter.aliases) > 1:
            matches = [match for match in found if index in match.aliases]
            yield from _disagreements(matches, index, frozenset(parameter.aliases))


def _disagreements(found: Sequence[Match], index: int, every: frozenset[str]) -> Iterator[Problem]:
    claims: dict[str, list[tuple[Match, Action]]] = {}
    for match in found:
        names = match.aliases[index]
        for action in match.rule.actions:
            if not action.overwrites or action.kind == "bn":
                continue
            earlier = claims.setdefault(action.attribute, [])
            if names == every:
                earlier.clear()
                continue
            for other, contrary in earlier:
                others = other.aliases[index]
                if not names & others and other.value(contrary, index) != match.value(
                    action, index
                ):
                    yield Problem(
                        match.rule.line,
                        f"{min(names)} and {min(others)} are one tied parameter: {action.text!r} "
                        f"here disagrees with {contrary.text!r} in line {other.rule.line}",
                    )
            earlier.append((match, action))
