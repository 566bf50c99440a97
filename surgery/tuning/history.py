"""What the rules did to each parameter and norm, line by line, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning.actions import ActionKind
from surgery.tuning.matching import Match
from surgery.tuning.rules import Rule
from surgery.tuning.words import Value

#: Trains from the start, never, or from the epoch of that number on.
When = Literal["train", "frozen"] | int

#: Keys and values in the order in which they are shown.
Hyper = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Firing:
    """One action of one line on one parameter, and the attribute's value after it.

    ``line`` is 0 for what no line of the rules said: the optimizer's default or a call's argument.
    """

    line: int
    text: str
    action: str
    attribute: str
    value: Value


@dataclass(frozen=True, slots=True)
class History:
    """A parameter, everything that fired for it in order, and the outcome.

    The first firings are where its hyper-parameters start; one that never trains ends with none.
    ``frozen_by_model`` says that the model came with ``requires_grad=False`` and no rule had a word
    on it.
    """

    parameter: ParameterSpec
    hyper: Hyper
    when: When
    name: str | None
    frozen_by_model: bool
    rules: tuple[Rule, ...]
    firings: tuple[Firing, ...]


@dataclass(frozen=True, slots=True)
class HeldNorm:
    """A norm that stays in eval mode: for epochs before ``until``, or for good where it is None."""

    path: str
    until: int | None = None


def owners(parameter: ParameterSpec) -> set[str]:
    """The paths of the modules that have the parameter; of a tied one there are several."""
    return {alias.rpartition(".")[0] for alias in parameter.aliases}


def first_epoch(when: When) -> float:
    """The first epoch in which it trains; infinity where it never does."""
    if when == "frozen":
        return math.inf
    return 0 if when == "train" else when


def run_rules(
    spec: ModelSpec, found: Sequence[Match], start: Sequence[Firing]
) -> tuple[History, ...]:
    """Run the rules, top to bottom, over every parameter, in model order."""
    fired: list[list[Match]] = [[] for _ in spec.parameters]
    for match in found:
        for index in match.parameters:
            fired[index].append(match)
    return tuple(
        _history(index, parameter, fired[index], start)
        for index, parameter in enumerate(spec.parameters)
    )


def _history(
    index: int, parameter: ParameterSpec, found: Sequence[Match], start: Sequence[Firing]
) -> History:
    values: dict[str, Any] = {firing.attribute: firing.value for firing in start}
    keys = tuple(values)
    firings = list(start)
    for match in found:
        rule = match.rule
        for action in rule.actions:
            if action.kind != "bn" or owners(parameter) & set(match.norms):
                value: Any = match.value(action, index)
                value = value if action.overwrites else values[action.attribute] * value
                values[action.attribute] = value
                firings.append(Firing(rule.line, rule.text, action.text, action.attribute, value))
    # Integers have no gradient, whatever a rule says.
    when: When = "frozen"
    if parameter.tensor.is_floating:
        when = values.get("when") or ("train" if parameter.trainable else "frozen")
    return History(
        parameter=parameter,
        hyper=() if when == "frozen" else tuple((key, values[key]) for key in keys),
        when=when,
        name=values.get("name"),
        frozen_by_model=not parameter.trainable and "when" not in values,
        rules=tuple(match.rule for match in found),
        firings=tuple(firings),
    )


def held_norms(
    spec: ModelSpec, found: Sequence[Match], histories: Sequence[History]
) -> tuple[HeldNorm, ...]:
    """Every norm with running statistics that is frozen or ruled ``bn=eval``, in model order.

    A batch norm whose parameters are frozen still moves its running mean and variance whenever it
    runs in training mode. So it is held until its first parameter trains; one without parameters
    trains when the rules that mean its path say so.
    """
    trained: dict[str, float] = {}
    for history in histories:
        for path in owners(history.parameter):
            trained[path] = min(first_epoch(history.when), trained.get(path, math.inf))
    modes = _last_words(found, "bn").items()
    until = {
        **{path: first_epoch(when) for path, when in _last_words(found, "when").items()},
        **trained,
        **{path: math.inf if mode == "eval" else 0 for path, mode in modes},
    }
    return tuple(
        HeldNorm(module.path, None if end == math.inf else int(end))
        for module in spec.modules
        if module.has_statistics and (end := until.get(module.path, 0))
    )


def _last_words(found: Sequence[Match], kind: ActionKind) -> dict[str, Any]:
    """What the last line said about each norm."""
    words: dict[str, Any] = {}
    for match in found:
        for action in match.rule.actions:
            if action.kind == kind:
                words.update(dict.fromkeys(match.norms, action.value))
    return words
