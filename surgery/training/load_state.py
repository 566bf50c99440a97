"""An optimizer's state onto another one, by parameter name; the new learning rates stand."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from surgery.checkpoint.contents.finding import optimizers_in
from surgery.checkpoint.tensors.optimizer_states import read_optimizer_states
from surgery.errors import StateRefused, did_you_mean
from surgery.networks.selection import spec_of
from surgery.specs import ModelSpec
from surgery.training.optimizer_state import (
    OptimizerState,
    kind_of,
    known_names,
    live_state,
    saved_state,
)
from surgery.training.parameter_states import (
    Slot,
    misfit,
    parameter_slots,
    shape_of,
    write_states,
)
from surgery.training.training_file import is_training_file, read_training_file
from surgery.tuning import apply_training_state, read_rules, resolve_groups
from surgery.tuning.optimizer import make_optimizer
from surgery.tuning.rules import RulesSource
from surgery.wording import listed

Saved = torch.optim.Optimizer | Mapping[str, Any] | str | os.PathLike[str]

#: Equal keys with equal meaning: running means of the gradient and of its square, and a count.
#: SGD, LARS and Muon all keep a ``momentum_buffer``, and each means another thing by it.
_ADAMS = frozenset({"Adam", "AdamW", "RAdam", "LayerAdaptiveAdam"})


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

    def __str__(self) -> str:
        count = len(self.carried) + len(self.fresh) + len(self.reshaped)
        reasons = dict(self.reasons)
        # Names with one reason stand on one line.
        lines: dict[tuple[str, str], list[str]] = {}
        for title in ("fresh", "reshaped", "unused"):
            for name in getattr(self, title):
                lines.setdefault((title, reasons.get(name, "")), []).append(name)
        return "\n".join(
            (
                f"{len(self.carried)} of {count} parameters carry their state on",
                *(
                    f"  {title:<8}  {listed(names)}{f': {reason}' if reason else ''}"
                    for (title, reason), names in lines.items()
                ),
                *(f"  note: {note}" for note in self.notes),
            )
        )


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, saved: Saved, *, model: nn.Module | None = None
) -> StateOutcome:
    """Give ``optimizer`` the state that ``saved`` holds for parameters of the same names.

    ``saved`` is an optimizer, its ``state_dict()`` or a mapping with one in it, a file of
    :func:`surgery.save_training`, or a ``.pt``, of which nothing is executed. Where it kept no
    names, ``model`` is the one that made it, and its parameters' order decides. Every
    hyper-parameter stays as it is. What is not carried starts without a state, and
    ``saved`` is not touched.

    Raises :class:`~surgery.errors.StateRefused`, with nothing changed, where names cannot be
    found or none of a state that is there would be carried.
    """
    state = _read(saved, model)
    names = known_names(optimizer, model)
    if unnamed := names.count(None):
        raise StateRefused(
            f"the optimizer has {len(names)} parameters and names for {len(names) - unnamed}: "
            "make it by build_optimizer, or from named_parameters()"
        )
    slots = parameter_slots(type(optimizer), optimizer.param_groups, filter(None, names))
    outcome = _outcome(_verdicts(slots, state, kind_of(optimizer)), state)
    _refuse_nothing(outcome, state)
    carried = {name: state.entries[name] for name in outcome.carried}
    counters = state.counters()
    for slot in slots:
        if slot.name in carried:
            optimizer.param_groups[slot.group].update(counters[slot.name])
            if slot.kept is not None:
                entry = carried[slot.name]
                carried[slot.name] = {key: entry[key] for key in slot.kept}
    write_states(optimizer, slots, carried)
    return outcome


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
    size) starts without one, and ``load_optimizer_state(new, old)`` says what became of each.
    Schedules and stages are built anew, and stages are started at the epoch that has come.

    Raises what ``build_optimizer`` and :func:`load_optimizer_state` raise; the model and the
    old optimizer then are as they were, and the latter always is.
    """
    rules = read_rules(rules)
    groups = resolve_groups(
        _as_trained_by(old_optimizer, model),
        rules,
        transfer=transfer,
        optimizer=optimizer or rules.optimizer or type(old_optimizer),
        base=base,
    )
    built = make_optimizer(model, groups)
    load_optimizer_state(built, old_optimizer, model=model)
    apply_training_state(model, groups)
    return built


def _as_trained_by(optimizer: torch.optim.Optimizer, model: nn.Module) -> ModelSpec:
    """A frozen parameter of the optimizer waits for its stage; no rule has to say so again."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    waiting = {name for name, p in model.named_parameters() if id(p) in held}
    spec = spec_of(model)
    parameters = (replace(p, trainable=True) if p.name in waiting else p for p in spec.parameters)
    return replace(spec, parameters=tuple(parameters))


def _read(saved: Saved, model: nn.Module | None) -> OptimizerState:
    """Whatever holds a state, by name; ``model`` is the one that made it, for lack of names.

    Raises StateRefused where the names cannot be found, CheckpointError for unreadable files.
    """
    if isinstance(saved, torch.optim.Optimizer):
        return live_state(saved, known_names(saved, model))
    found: Mapping[str, Mapping[Any, Any]]
    if isinstance(saved, Mapping):
        found, where = dict(optimizers_in(saved)), "the mapping"
    elif not isinstance(saved, str | os.PathLike):
        raise StateRefused(
            f"expected an optimizer, its state_dict() or a file, found {type(saved).__name__}"
        )
    elif is_training_file(saved):
        return read_training_file(saved).optimizer
    else:
        found, where = read_optimizer_states(saved), os.fspath(saved)
    if len(found) != 1:
        names = f", {', '.join(found)}" if found else ""
        raise StateRefused(
            f"{where}: holds {len(found) or 'no'} optimizer states{names}: load it and pass the "
            "one that is meant, a mapping of state and param_groups"
        )
    (state,) = found.values()
    return saved_state(state, model)


#: What becomes of one parameter's state, and why it does not stay.
Verdict = tuple[Literal["carried", "fresh", "reshaped"], str]


def _verdicts(slots: Sequence[Slot], saved: OptimizerState, kind: str) -> dict[str, Verdict]:
    same_model = any(saved.parameters.get(slot.name) is slot.parameter for slot in slots)
    verdicts = {slot.name: _verdict(slot, saved, kind, same_model) for slot in slots}
    counters = saved.counters()
    carried: dict[int, list[str]] = defaultdict(list)
    for slot in slots:
        if verdicts[slot.name][0] == "carried":
            carried[slot.group].append(slot.name)
    # A group that counts for all of its parameters cannot go on from two counts.
    for names in carried.values():
        if any(counters[name] != counters[names[0]] for name in names):
            two = "its group would have two counts of steps"
            verdicts.update((name, ("fresh", two)) for name in names)
    return verdicts


def _verdict(slot: Slot, saved: OptimizerState, kind: str, same_model: bool) -> Verdict:
    """Whether what was saved for a parameter is what the optimizer ``kind`` keeps for it."""
    entry, kept = saved.entries.get(slot.name), slot.kept
    if entry is None:
        return "fresh", ""
    if same_model and saved.parameters.get(slot.name) is not slot.parameter:
        return "fresh", "replaced since: the model has another parameter of that name"
    there, here = (saved.kind or "").rpartition(":")[2], kind.rpartition(":")[2]
    if saved.kind not in (None, kind) and not {there, here} <= _ADAMS:
        return "fresh", f"{there} saved it, {here} is to go on"
    if kept is None:  # only a real step shows it
        if saved.kind != kind:
            return "fresh", f"what {here} keeps is not known before its step"
        own = tuple(slot.parameter.shape)
        others = (shape for shape in map(shape_of, entry.values()) if shape not in (None, (), own))
        other = next(others, None)
        return ("reshaped", f"was {other} and is to be {own}") if other else ("carried", "")
    dropped, lacking = entry.keys() - kept.keys(), kept.keys() - entry.keys()
    if not kept or lacking or (dropped and saved.kind != kind):
        keeps, holds = (", ".join(map(str, keys)) or "nothing" for keys in (kept, entry))
        return "fresh", f"{here} keeps {keeps}, saved is {holds}"
    reason = misfit(entry, kept)
    return ("reshaped", reason) if reason else ("carried", "")


def _outcome(verdicts: Mapping[str, Verdict], saved: OptimizerState) -> StateOutcome:
    names: dict[str, list[str]] = {"carried": [], "fresh": [], "reshaped": []}
    for name, (fate, _) in verdicts.items():
        names[fate].append(name)
    return StateOutcome(
        **{fate: tuple(those) for fate, those in names.items()},
        unused=tuple(name for name in saved.entries if name not in verdicts),
        reasons=tuple((name, reason) for name, (_, reason) in verdicts.items() if reason),
        notes=saved.notes,
    )


def _refuse_nothing(outcome: StateOutcome, saved: OptimizerState) -> None:
    """A state of which nothing fits is another model's or another optimizer's."""
    if outcome.carried or not saved.entries:
        return
    if outcome.reasons:
        name, reason = outcome.reasons[0]
        raise StateRefused(
            f"nothing of the saved state can be carried: {name}: {reason}; "
            "build_optimizer starts without a state"
        )
    first, own = next(iter(saved.entries)), (*outcome.fresh, *outcome.reshaped)
    raise StateRefused(
        f"nothing of the saved state can be carried: it is of {first} ..., the optimizer has "
        f"{own[0]} ...{did_you_mean(first, own)}"
    )
