"""Which parameters and norms each rule means, and what is wrong with rules that mean none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import Problem, SelectorError
from surgery.networks.selection import Answers
from surgery.patterns import Meaning, Selector, Subjects, why_nothing
from surgery.specs import ModelSpec
from surgery.tuning.actions import Action
from surgery.tuning.differential import differential_values
from surgery.tuning.rules import Rule, Rules
from surgery.tuning.words import Value, WordError

#: A parameter by its index in the spec, or a norm with running statistics by its path.
Target = int | str


@dataclass(frozen=True, slots=True)
class Match:
    """What one rule means: indices into ``spec.parameters``, and paths of stateful norms.

    ``aliases`` are, for the tied parameters among them, the names by which it means them;
    ``values`` what each gets of an action that depends on where in the model it lies.
    """

    rule: Rule
    parameters: tuple[int, ...]
    norms: tuple[str, ...]
    aliases: Mapping[int, frozenset[str]]
    values: Mapping[Action, Mapping[int, float]]

    def targets(self, action: Action) -> tuple[Target, ...]:
        """What the action changes. Freezing reaches a norm that has statistics alone too."""
        if action.kind == "bn":
            return self.norms
        if action.kind == "when":
            return (*self.parameters, *self.norms)
        return self.parameters

    def value(self, action: Action, parameter: int) -> Value:
        """The value that the action has for one of the parameters."""
        return self.values[action][parameter] if action in self.values else action.value

    def effects(self, action: Action) -> Iterator[tuple[Target, str, str]]:
        """Target, alias and attribute: a line for one alias takes nothing from the others'."""
        for target in self.targets(action):
            names = self.aliases.get(target, ("",)) if isinstance(target, int) else ("",)
            for name in names:
                yield target, name, action.attribute


#: Problems of which the nearest names are looked for: it takes its time.
_MOST_NEAREST = 20


def match_rules(
    rules: Rules,
    spec: ModelSpec,
    status: Mapping[str, str] | None,
    heads: Sequence[str] | None = None,
) -> tuple[tuple[Match, ...], tuple[Problem, ...]]:
    """Every rule with what it means, and a problem for each that means nothing.

    A rule whose question cannot be asked of this model is a problem and not among the matches.
    """
    answers = Answers(spec, status, heads)
    subjects = Subjects((*answers.parameters(), *answers.modules()))
    tied = {
        index: Subjects(answers.aliases(parameter))
        for index, parameter in enumerate(spec.parameters)
        if len(parameter.aliases) > 1
    }
    found: list[Match] = []
    problems: list[Problem] = []
    for rule in rules.rules:
        try:
            answers.check(rule.selector)
            meaning = subjects.meant_by(rule.selector)
            match = _match(rule, spec, meaning, tied)
        except (SelectorError, WordError) as error:
            problems.append(Problem(rule.line, str(error.args[0])))
            continue
        found.append(match)
        if not rule.optional:
            near = len(problems) < _MOST_NEAREST
            unmet = [subjects.why_unmet(atom, near=near) for atom in meaning.unmet]
            problems += (Problem(rule.line, message) for message in unmet or _dead_ends(match))
    return tuple(found), tuple(problems)


def _match(rule: Rule, spec: ModelSpec, meaning: Meaning, tied: Mapping[int, Subjects]) -> Match:
    """Modules are meant by indices behind those of parameters."""
    count = len(spec.parameters)
    indices = tuple(sorted(index for index in meaning.indices if index < count))
    modules = (spec.modules[index - count] for index in sorted(meaning.indices - {*indices}))
    norms = tuple(module.path for module in modules if module.has_statistics)
    aliases = {
        index: _aliases(rule.selector, tied[index], spec.parameters[index].aliases)
        for index in indices
        if index in tied
    }
    return Match(rule, indices, norms, aliases, differential_values(rule, indices, spec))


def _aliases(selector: Selector, tied: Subjects, aliases: tuple[str, ...]) -> frozenset[str]:
    """The names that the selector means by themselves; all where only together they fit it."""
    meant = tied.meant_by(selector).indices
    return frozenset(aliases[index] for index in meant) or frozenset(aliases)


def _dead_ends(match: Match) -> Iterator[str]:
    selector = match.rule.selector
    if not match.parameters and not match.norms:
        yield why_nothing(selector)
        return
    for action in match.rule.actions:
        if not match.targets(action):
            what = "norm with running statistics" if action.kind == "bn" else "parameter"
            yield f"{action.text!r} has no effect: {selector.text!r} means no {what}"
