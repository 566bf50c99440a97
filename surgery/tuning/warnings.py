"""What the rules and the model allow and nobody is likely to mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from surgery.networks.selection import Answers
from surgery.specs import ModelSpec
from surgery.tuning.actions import Action
from surgery.tuning.contradictions import uncovered, without_effect
from surgery.tuning.history import HeldNorm, History, owners
from surgery.tuning.matching import Match
from surgery.tuning.rules import Rules
from surgery.tuning.stages import knows_depths, layer_depths
from surgery.wording import counted_names
from surgery.wrappers import paths_of, unwrap_name


def oddities(
    spec: ModelSpec,
    rules: Rules,
    found: Sequence[Match],
    histories: Sequence[History],
    norms: Sequence[HeldNorm],
) -> tuple[str, ...]:
    """One line each for what was guessed, what is left out, what looks like a slip."""
    return (
        *_guessed_regexes(rules),
        *_guessed_depths(spec, rules),
        *_without_use(found, spec),
        *_unnamed(rules, found, spec),
        *_zero_rates(histories),
        *_restless_norms(spec, histories, norms),
    )


def risks(
    spec: ModelSpec,
    found: Sequence[Match],
    histories: Sequence[History],
    status: Mapping[str, str] | None,
) -> tuple[str, ...]:
    """One line each for what spoils a training that nobody looks at: built all the same."""
    return (
        *_nothing_trains(histories),
        *_shadowed(spec),
        *_frozen_by_model(histories),
        *_compound_scales(found, spec),
        *_new_at_old_rates(spec, histories, status),
    )


def _guessed_regexes(rules: Rules) -> Iterator[str]:
    for rule in rules.rules:
        for atom in rule.selector.atoms:
            if atom.guessed:
                yield (
                    f"line {rule.line}: {atom.text!r} has characters that no name has and was read "
                    f"as a regular expression; /{atom.text}/ says so"
                )


def _guessed_depths(spec: ModelSpec, rules: Rules) -> Iterator[str]:
    lines = (r.line for r in rules.rules if any(a.kind in ("decay", "spread") for a in r.actions))
    first = next(lines, None)
    if first and not knows_depths(spec):
        count = len(set(layer_depths(spec).values()))
        yield (
            f"line {first}: the model does not say how deep its layers are; "
            f"their order makes {count} {'stage' if count == 1 else 'stages'}"
        )


def _without_use(found: Sequence[Match], spec: ModelSpec) -> Iterator[str]:
    for match in found:
        if match.rule.optional and not match.parameters and not match.norms:
            yield f"line {match.rule.line}: {match.rule.text!r} matches nothing here"
    for problem in without_effect(found, spec, frozen_below=True):
        yield f"line {problem.line}: {problem.message}"


def _unnamed(rules: Rules, found: Sequence[Match], spec: ModelSpec) -> Iterator[str]:
    missed = [parameter.name for parameter in uncovered(found, spec) if parameter.trainable]
    if missed and rules.rules:
        yield f"no rule names {counted_names(missed)}: the base settings hold there"


def _shadowed(spec: ModelSpec) -> Iterator[str]:
    for module in spec.modules:
        if module.shadowed:
            # A selector sees no wrappers, and `module` alone is one.
            path = unwrap_name(f"{module.path}.weight").rpartition(".")[0] if module.path else ""
            yield (
                f"module.requires_grad was set on {module.path or 'the model'}: a plain "
                f"attribute, which changes nothing; `{path or ':all'} freeze` would"
            )


def _frozen_by_model(histories: Sequence[History]) -> Iterator[str]:
    frozen = (history.parameter for history in histories if history.frozen_by_model)
    if names := [parameter.name for parameter in frozen if parameter.tensor.is_floating]:
        yield (
            f"the model has requires_grad off, and no rule a word, on {counted_names(names)}; "
            "`:all train` unfreezes them"
        )


def _nothing_trains(histories: Sequence[History]) -> Iterator[str]:
    if histories and all(history.when == "frozen" for history in histories):
        yield "nothing trains: every parameter is frozen"


def _compound_scales(found: Sequence[Match], spec: ModelSpec) -> Iterator[str]:
    """Scales that a tied parameter has got under one of its names each: all of them count."""
    for index, parameter in enumerate(spec.parameters):
        scales: dict[str, list[tuple[Match, Action]]] = {}
        for match in found:
            for action in match.rule.actions if index in match.aliases else ():
                if action.kind == "scale":
                    scales.setdefault(action.attribute, []).append((match, action))
        for scaled in scales.values():
            if not frozenset.intersection(*(match.aliases[index] for match, _ in scaled)):
                said = " and ".join(f"{a.text} of line {m.rule.line}" for m, a in scaled)
                names = " and ".join(parameter.aliases)
                yield f"{names} are one tied parameter: {said} both count"


def _zero_rates(histories: Sequence[History]) -> Iterator[str]:
    if names := [history.parameter.name for history in histories if _rate(history) == 0]:
        yield (
            f"lr=0 does not freeze {counted_names(names)}: the optimizer's state still moves; "
            "`freeze` stops it"
        )


def _rate(history: History) -> float | None:
    """None for what never trains."""
    return dict(history.hyper).get("lr")


def _new_at_old_rates(
    spec: ModelSpec, histories: Sequence[History], status: Mapping[str, str] | None
) -> Iterator[str]:
    """New parameters start from noise, loaded ones from where they should stay close to."""
    rates: dict[str, dict[float, list[str]]] = {"fresh": {}, "loaded": {}}
    for history, subject in zip(histories, Answers(spec, status).parameters(), strict=True):
        rate = _rate(history)
        for state in rates.keys() & subject.words:
            if rate is not None:
                rates[state].setdefault(rate, []).append(history.parameter.name)
    for rate in rates["fresh"].keys() & rates["loaded"].keys():
        fresh, loaded = counted_names(rates["fresh"][rate]), counted_names(rates["loaded"][rate])
        yield f"new {fresh} learn at lr={rate:g}, the learning rate of loaded {loaded}"


def _restless_norms(
    spec: ModelSpec, histories: Sequence[History], norms: Sequence[HeldNorm]
) -> Iterator[str]:
    """Norms whose statistics move in a block that is frozen apart from its norms."""
    stateful = {module.path for module in spec.modules if module.has_statistics}
    trains_in: dict[str, set[bool]] = {}
    for history in histories:
        for owner in owners(history.parameter) - stateful:
            for block in {"", *paths_of(owner.rpartition(".")[0])}:
                trains_in.setdefault(block, set()).add(history.when != "frozen")
    moving = stateful - {norm.path for norm in norms}
    restless = [
        module.path
        for module in spec.modules
        if module.path in moving and trains_in.get(module.path.rpartition(".")[0]) == {False}
    ]
    if restless:
        yield (
            f"{counted_names(restless, 'norm')} still move their statistics in blocks that are "
            "otherwise frozen; bn=eval holds them"
        )
