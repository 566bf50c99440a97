"""An optimizer's state onto another one, by parameter name; the new rates stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgery.errors import StateRefused, did_you_mean
from surgery.patterns import spec_of
from surgery.specs import ModelSpec
from surgery.training.fitting import Fate, Verdict, judge
from surgery.training.kept import Kept, KeptStates
from surgery.training.placing import placed
from surgery.training.remembered import (
    Remembered,
    class_of,
    kind_of,
    parameter_names,
    remember,
)
from surgery.tuning import apply_training_state, read_rules, resolve_groups
from surgery.tuning.optimizer import make_optimizer
from surgery.tuning.rules import RulesSource
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.training.remembered import Saved


@dataclass(frozen=True, slots=True)
class StateOutcome:
    """What became of a saved state: every parameter of the optimizer in one of the first three.

    ``carried`` has its state, ``fresh`` and ``reshaped`` (saved for another shape) start without
    one, ``unused`` was saved for names that the optimizer has not. ``reasons`` are pairs of a
    name and why its state did not come over; there is none where nothing was saved.
    ``notes`` are what could not be checked.
    """

    carried: tuple[str, ...]
    fresh: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]
    reasons: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "carried": list(self.carried),
            "fresh": list(self.fresh),
            "reshaped": list(self.reshaped),
            "unused": list(self.unused),
            "reasons": dict(self.reasons),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        count = len(self.carried) + len(self.fresh) + len(self.reshaped)
        return "\n".join(
            (
                f"{len(self.carried)} of {count} parameters carry their state on",
                *_lines("fresh", self.fresh, dict(self.reasons)),
                *_lines("reshaped", self.reshaped, dict(self.reasons)),
                *_lines("unused", self.unused, {}),
                *(f"  note: {note}" for note in self.notes),
            )
        )


def _lines(title: str, names: Iterable[str], reasons: Mapping[str, str]) -> Iterator[str]:
    """Names with one reason stand on one line."""
    by_reason: dict[str, list[str]] = {}
    for name in names:
        by_reason.setdefault(reasons.get(name, ""), []).append(name)
    for reason, members in by_reason.items():
        shown = ", ".join(members[:3]) + (f" and {len(members) - 3} more" if members[3:] else "")
        yield f"  {title:<8}  {shown}{f': {reason}' if reason else ''}"


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, saved: Saved, *, model: nn.Module | None = None
) -> StateOutcome:
    """Give ``optimizer`` the state that ``saved`` holds for parameters of the same names.

    ``saved`` is an optimizer, its ``state_dict()`` or a mapping with one in it, a file of
    :func:`surgery.save_training`, or a ``.pt``, of which nothing is executed. Where it kept no
    names, ``model`` is the one that made it, and its parameters' order tells. Every
    hyper-parameter stays as it is. What is not carried starts without a state, and
    ``saved`` is not touched.

    Raises :class:`~surgery.errors.StateRefused`, with nothing changed, where names cannot be
    told or none of a state that is there would be carried.
    """
    remembered = remember(saved, model)
    targets = _targets(optimizer, model)
    return _carry(optimizer, targets, remembered)


def rebuild_optimizer(
    old_optimizer: torch.optim.Optimizer,
    model: nn.Module,
    rules: RulesSource,
    *,
    transfer: object | None = None,
    optimizer: str | type[torch.optim.Optimizer] | None = None,
    **base: Any,
) -> torch.optim.Optimizer:
    """A new optimizer by other rules, in the middle of a run, with the state of the old one.

    As :func:`surgery.build_optimizer`, but where nobody names a class it is the old one's, and
    what the old one trained counts as trainable, whatever stage it is in. The state is
    carried by name; a parameter that was replaced under its name (a new head of the same
    size) starts without one, and ``load_optimizer_state(new, old)`` tells it all. Schedules and
    stages are built anew, and stages are started at the epoch that has come.

    Raises what ``build_optimizer`` and :func:`load_optimizer_state` raise; the model and the
    old optimizer then are as they were, and the latter always is.
    """
    rules = read_rules(rules)
    remembered = remember(old_optimizer, model)
    groups = resolve_groups(
        _as_trained_by(old_optimizer, model),
        rules,
        transfer=transfer,
        optimizer=optimizer or rules.optimizer or class_of(old_optimizer),
        base=base,
    )
    built = make_optimizer(model, groups)
    _carry(built, _targets(built, model), remembered)
    apply_training_state(model, groups)
    return built


def _as_trained_by(optimizer: torch.optim.Optimizer, model: nn.Module) -> ModelSpec:
    """A frozen parameter of the optimizer waits for its stage; no rule has to say so again."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    waiting = {name for name, p in model.named_parameters() if id(p) in held}
    spec = spec_of(model)
    parameters = (replace(p, trainable=True) if p.name in waiting else p for p in spec.parameters)
    return replace(spec, parameters=tuple(parameters))


@dataclass(frozen=True, slots=True)
class _Target:
    """A parameter that is to have a state. ``group`` counts the optimizer's groups."""

    name: str
    parameter: nn.Parameter
    group: int
    kept: Kept | None


def _targets(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> tuple[_Target, ...]:
    """The optimizer's parameters by unwrapped name, in its order."""
    groups = optimizer.param_groups
    names = [name for name in parameter_names(groups, model) if name is not None]
    places = [(p, index) for index, group in enumerate(groups) for p in group["params"]]
    if len(names) != len(places):
        raise StateRefused(
            f"the optimizer has {len(places)} parameters and names for {len(names)}: make it by "
            "build_optimizer, or from named_parameters()"
        )
    clean, kept = unwrap_names(names), KeptStates(type(optimizer), groups)
    return tuple(
        _Target(clean[name], parameter, group, kept.of(parameter, group))
        for name, (parameter, group) in zip(names, places, strict=True)
    )


def _carry(
    optimizer: torch.optim.Optimizer, targets: tuple[_Target, ...], remembered: Remembered
) -> StateOutcome:
    verdicts = _one_count_a_group(
        targets, _verdicts(targets, remembered, kind_of(optimizer)), remembered
    )
    outcome = _outcome(verdicts, remembered)
    _refuse_nothing(outcome, remembered)
    carried = [target for target in targets if verdicts[target.name].fate == "carried"]
    states: dict[torch.Tensor, dict[str, Any]] = {
        target.parameter: _state(target, remembered, optimizer) for target in carried
    }
    for target in targets:
        optimizer.state.pop(target.parameter, None)
    optimizer.state.update(states)
    for target in carried:
        group = optimizer.param_groups[target.group]
        group.update(remembered.counters.get(target.name, {}))
    return outcome


def _state(
    target: _Target, remembered: Remembered, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """A copy of what was saved, less the keys that are no longer kept."""
    group = optimizer.param_groups[target.group]
    return {
        key: placed(value, key, target.parameter, group, target.kept)
        for key, value in remembered.entries[target.name].items()
        if target.kept is None or key in target.kept
    }


def _verdicts(targets: Iterable[_Target], remembered: Remembered, kind: str) -> dict[str, Verdict]:
    live = remembered.parameters
    same_model = any(live.get(target.name) is target.parameter for target in targets)
    return {
        target.name: _verdict(target, remembered, kind, same_model=same_model) for target in targets
    }


def _verdict(target: _Target, remembered: Remembered, kind: str, *, same_model: bool) -> Verdict:
    entry = remembered.entries.get(target.name)
    if entry is None:
        return Verdict("fresh")
    shape = tuple(target.parameter.shape)
    verdict = judge(entry, target.kept, shape, (remembered.kind, kind))
    old = remembered.parameters.get(target.name)
    if same_model and old is not target.parameter and verdict.fate == "carried":
        return Verdict("fresh", "replaced since: the model has another parameter of that name")
    return verdict


def _one_count_a_group(
    targets: Iterable[_Target], verdicts: Mapping[str, Verdict], remembered: Remembered
) -> dict[str, Verdict]:
    """A group that counts for all of its parameters cannot go on from two counts."""
    counts: dict[int, list[Mapping[str, Any]]] = {}
    for target in targets:
        if verdicts[target.name].fate == "carried":
            counts.setdefault(target.group, []).append(remembered.counters.get(target.name, {}))
    torn = {group for group, found in counts.items() if any(one != found[0] for one in found)}
    reason = "its group would have two counts of steps"
    return {
        target.name: Verdict("fresh", reason)
        if target.group in torn and verdicts[target.name].fate == "carried"
        else verdicts[target.name]
        for target in targets
    }


def _outcome(verdicts: Mapping[str, Verdict], remembered: Remembered) -> StateOutcome:
    def those(fate: Fate) -> tuple[str, ...]:
        return tuple(name for name, verdict in verdicts.items() if verdict.fate == fate)

    unused = (name for name in remembered.entries if name not in verdicts)
    return StateOutcome(
        carried=those("carried"),
        fresh=those("fresh"),
        reshaped=those("reshaped"),
        unused=(*unused, *remembered.orphans),
        reasons=tuple((name, v.reason) for name, v in verdicts.items() if v.reason),
        notes=remembered.notes,
    )


def _refuse_nothing(outcome: StateOutcome, remembered: Remembered) -> None:
    """A state of which nothing fits is another model's or another optimizer's."""
    if outcome.carried or not remembered.entries:
        return
    if outcome.reasons:
        name, reason = outcome.reasons[0]
        raise StateRefused(
            f"nothing of the saved state can be carried: {name}: {reason}; "
            "build_optimizer starts without a state"
        )
    saved, own = next(iter(remembered.entries)), (*outcome.fresh, *outcome.reshaped)
    raise StateRefused(
        f"nothing of the saved state can be carried: it is of {saved} ..., the optimizer has "
        f"{own[0]} ...{did_you_mean(saved, own)}"
    )
