"""Rules that mean something and come to nothing, or that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from surgery.errors import Problem
from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning.actions import Action
from surgery.tuning.matching import Match, Target

#: Target, alias and attribute, as in :meth:`Match.effects`.
_Effect = tuple[Target, str, str]


def contradictions(found: Sequence[Match], spec: ModelSpec) -> tuple[Problem, ...]:
    """Every line that has no effect, and every two that disagree about a tied parameter."""
    return (*without_effect(found, spec), *_tied_disagreements(found, spec))


def without_effect(
    found: Sequence[Match], spec: ModelSpec, *, frozen_below: bool = False
) -> Iterator[Problem]:
    """Rules of which nothing is left: later lines overwrite it, or what it scales never trains.

    A rule that also reaches something that trains is fine. Where nothing trains at all that is
    the thing to say, and no rule's fault. What a line further down freezes counts only with
    ``frozen_below``: people switch a part off below the learning rates that they keep for later.
    """
    frozen = _frozen_for_good(found, spec)
    never = {} if len(frozen) == len(spec.parameters) else frozen
    later: dict[_Effect, int] = {}
    for match in reversed(found):
        line, text = match.rule.line, match.rule.text
        still = {index: at for index, at in never.items() if frozen_below or at < line}
        reasons = [
            _lost(action, effect, later, still, spec)
            for action in match.rule.actions
            for effect in match.effects(action)
        ]
        if reasons and all(reasons):
            yield Problem(line, f"{text!r} has no effect: {_because(reasons)}")
        for action in match.rule.actions:
            for effect in match.effects(action) if action.overwrites else ():
                later.setdefault(effect, line)


def _frozen_for_good(found: Sequence[Match], spec: ModelSpec) -> dict[int, int]:
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
    target = effect[0]
    if effect in later or not isinstance(target, int):
        return later.get(effect)
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
    numbers = f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))}"
    return "; ".join([*([f"overwritten by {numbers}"] if lines else []), *others])


def uncovered(found: Sequence[Match], spec: ModelSpec) -> tuple[ParameterSpec, ...]:
    """The parameters that no rule means, in model order."""
    named = {index for match in found for index in match.parameters}
    return tuple(p for index, p in enumerate(spec.parameters) if index not in named)


def _tied_disagreements(found: Sequence[Match], spec: ModelSpec) -> Iterator[Problem]:
    """Rules that would give one tied parameter two values, each under another of its names.

    A later ``=`` that means every name is an exception to what came before and decides. Two
    that mean different names decide nothing: which of them wins would hang on their order.
    """
    for index, parameter in enumerate(spec.parameters):
        claims: dict[str, list[tuple[Match, Action]]] = {}
        for match in found if len(parameter.aliases) > 1 else ():
            names = match.aliases.get(index, frozenset())
            for action in match.rule.actions if names else ():
                if not action.overwrites or action.kind == "bn":
                    continue
                earlier = claims.setdefault(action.attribute, [])
                if names == frozenset(parameter.aliases):
                    earlier.clear()
                    continue
                for other, contrary in earlier:
                    others = other.aliases[index]
                    values = other.value(contrary, index), match.value(action, index)
                    if not names & others and values[0] != values[1]:
                        yield Problem(
                            match.rule.line,
                            f"{min(names)} and {min(others)} are one tied parameter: "
                            f"{action.text!r} here disagrees with {contrary.text!r} in line "
                            f"{other.rule.line}",
                        )
                earlier.append((match, action))
