"""The driver of ``unfreeze@N``: one call an epoch, and the model is in that epoch's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from surgery.errors import OptimizerError, StageError
from surgery.heads.places import inner_model
from surgery.private_torch import synchronised_by
from surgery.tuning import ParamGroups, apply_training_state, read_rules, resolve_groups
from surgery.tuning.rules import RulesSource
from surgery.tuning.training_state import check_same_model, is_held
from surgery.wording import counted_names, first_difference
from surgery.wrappers import unwrap_name

_DDP = (
    "wrap first, with everything trainable: DistributedDataParallel(model, "
    "find_unused_parameters=True), then build_optimizer and build_stages on what it returns"
)


@dataclass(frozen=True, slots=True)
class StageChange:
    """What the start of an epoch changed, by name and in model order.

    ``released`` are norms whose statistics move again, ``held`` those that were brought to
    rest. All empty in an epoch that no rule names.
    """

    epoch: int
    unfrozen: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    held: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (
            (self.unfrozen, "parameter", "now training"),
            (self.frozen, "parameter", "now frozen"),
            (self.released, "norm", "released"),
            (self.held, "norm", "held"),
        )
        changes = [counted_names(*part) for part in parts if part[0]]
        return f"epoch {self.epoch}: {'; '.join(changes) or 'as before'}"


def build_stages(
    model: nn.Module,
    rules: RulesSource | ParamGroups,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    transfer: object | None = None,
) -> Stages:
    """What drives ``unfreeze@N`` on ``model``; nothing is changed before the first epoch starts.

    ``rules`` are those that the optimizer was built by, or the groups that they made. Give the
    ``optimizer`` too, and that it holds every parameter that will ever train is checked now.

    >>> stages = surgery.build_stages(model, "rules.txt", optimizer=optimizer)
    >>> for epoch in range(10):
    ...     print(stages.start_epoch(epoch))
    ...     train(model.train(), optimizer)

    DistributedDataParallel collects the parameters that require a gradient when it wraps, and never
    looks again: one that was frozen then and trains later keeps each process's own gradient,
    without a word, and the replicas drift apart. So wrap first, with everything trainable and
    ``find_unused_parameters=True`` (without it the second step raises, and ``static_graph`` raises
    at the first unfreezing), then build optimizer and stages on what that returns. Stages of a
    model that is wrapped anew after every unfreezing are built on the bare model.

    Raises :class:`~surgery.errors.StageError`.
    """
    if isinstance(rules, ParamGroups):
        groups = rules
    else:
        rules = read_rules(rules)
        # Rules that name no optimizer may have keys of the one that they are used with.
        kind = type(optimizer) if optimizer is not None and rules.optimizer is None else None
        groups = resolve_groups(model, rules, transfer=transfer, optimizer=kind)
    stages = Stages(_driven(model, groups), groups)
    trained = stages._ever_trained()
    if stages.unfreezings:
        _refuse_unsynchronised(model, trained)
    if optimizer is not None:
        _check_optimizer(optimizer, trained)
    return stages


class Stages:
    """A model, and the groups that say which of its parameters train from which epoch on.

    ``epoch`` is the one that was started last, None before the first.
    """

    def __init__(self, model: nn.Module, groups: ParamGroups) -> None:
        self.model = model
        self.groups = groups
        self.epoch: int | None = None

    @property
    def unfreezings(self) -> tuple[int, ...]:
        """The epochs at which something joins in, ascending; not epoch 0."""
        return tuple(sorted({g.when for g in self.groups.groups if isinstance(g.when, int)}))

    def start_epoch(self, epoch: int) -> StageChange:
        """Put the model into the state of ``epoch``, counted from 0; returns what that changed.

        Any epoch may be the first, and an epoch may be started again; an earlier one than the
        last is refused. ``requires_grad`` is set, norms are held or released, whatever is
        frozen loses its gradient. Weights, mode and optimizer stay as they are.
        """
        _check_epoch(epoch, self.epoch)
        trained, held = self._trained(), self._held()
        apply_training_state(self.model, self.groups, epoch)
        self.epoch = epoch
        trained_now, held_now = self._trained(), self._held()
        return StageChange(
            epoch,
            unfrozen=_added(trained, trained_now),
            frozen=_added(trained_now, trained),
            released=_added(held_now, held),
            held=_added(held, held_now),
        )

    def trained_parameters(self) -> tuple[nn.Parameter, ...]:
        """What trains at the moment, in model order: what ``clip_grad_norm_`` is to see."""
        return tuple(p for p in self._ever_trained().values() if p.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and who trains from when, as JSON values."""
        return {"epoch": self.epoch, "when": self._when()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise StageError where ``state`` was saved under other stages; change nothing."""
        plain = isinstance(state, Mapping) and state.keys() == {"epoch", "when"}
        if not plain or not isinstance(state["when"], Mapping):
            raise StageError("expected what Stages.state_dict() gave, found something else")
        if state["epoch"] is not None:
            _check_epoch(state["epoch"], None)
        words = {"train": "trained from the start", "frozen": "frozen"}
        there, here = (
            {
                name: words.get(str(when), f"trained from epoch {when}")
                for name, when in record.items()
            }
            for record in (state["when"], self._when())
        )
        if difference := first_difference(there, here):
            raise StageError(f"saved under other stages: {difference}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the saved epoch, and put the model into its state.

        Unlike ``start_epoch`` this goes back too. Raises StageError, with nothing changed,
        where the state was saved under other stages.
        """
        self.check_state(state)
        if state["epoch"] is not None:
            apply_training_state(self.model, self.groups, state["epoch"])
        self.epoch = state["epoch"]

    def _when(self) -> dict[str, str | int]:
        return {
            unwrap_name(name): group.when
            for group in self.groups.groups
            for name in group.param_names
        }

    def _ever_trained(self) -> dict[str, nn.Parameter]:
        """Everything that the optimizer is to have."""
        names = {name for group in self.groups.trained for name in group.param_names}
        return {n: p for n, p in self.model.named_parameters() if n in names}

    def _trained(self) -> list[str]:
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    def _held(self) -> list[str]:
        return [path for path, module in self.model.named_modules() if is_held(module)]


def _added(before: Iterable[str], after: Iterable[str]) -> tuple[str, ...]:
    known = set(before)
    return tuple(name for name in after if name not in known)


def _check_epoch(epoch: object, last: int | None) -> None:
    if type(epoch) is not int or epoch < 0:
        raise StageError(f"expected an epoch, a whole number from 0, found {epoch!r}")
    if last is not None and epoch < last:
        raise StageError(
            f"epoch {epoch} cannot start after epoch {last}: stages only go forwards; "
            "build new ones to train again from an earlier epoch"
        )


def _driven(model: nn.Module, groups: ParamGroups) -> nn.Module:
    """The model, or the one inside its wrappers, whose names the groups speak."""
    names = {name for group in groups.groups for name in group.param_names}
    driven = model if names <= dict(model.named_parameters()).keys() else inner_model(model)
    try:
        check_same_model(driven, groups)
    except OptimizerError as error:
        raise StageError(error.message, error.details) from None
    return driven


def _refuse_unsynchronised(model: nn.Module, trained: Mapping[str, nn.Parameter]) -> None:
    """Raise StageError where a DDP wrapper would leave what is unfrozen later unsynchronised."""
    for wrapper in (m for m in model.modules() if isinstance(m, DistributedDataParallel)):
        if wrapper.static_graph or not wrapper.find_unused_parameters:
            raise StageError(
                "DDP with static_graph, or without find_unused_parameters, raises once something "
                f"is frozen or unfrozen: {_DDP}"
            )
        uncollected = {*wrapper.parameters()} - {*synchronised_by(wrapper)}
        missing = [name for name, parameter in trained.items() if parameter in uncollected]
        if missing:
            raise StageError(
                f"DDP does not synchronise {len(missing)} parameters that are to train, the first "
                f"is {missing[0]}: they were frozen when it wrapped the model; {_DDP}"
            )


def _check_optimizer(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, parameter in trained.items() if id(parameter) not in held]
    if missing:
        raise StageError(
            f"the optimizer lacks {len(missing)} of {len(trained)} parameters that are to train, "
            f"the first is {missing[0]}: build it by the same rules, after the last change of "
            "the model",
        )
