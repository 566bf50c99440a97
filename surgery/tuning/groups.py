"""Parameter groups: who trains, how fast, and which line says so."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.errors import SelectorError, did_you_mean
from surgery.showing import Shown
from surgery.tuning.history import Firing, HeldNorm, History, Hyper, When, first_epoch
from surgery.tuning.rules import Rule, Rules
from surgery.wrappers import unwrap_name

if TYPE_CHECKING:
    from surgery.tuning.optimizer_choice import OptimizerChoice


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share every hyper-parameter, in model order.

    ``when`` is ``"train"``, ``"frozen"`` or the epoch at which training starts. A frozen group
    is shown but never reaches the optimizer, so its ``hyper`` is empty and its state 0 bytes;
    ``frozen_by_model`` says that no rule froze it. ``param_names`` are as ``named_parameters``
    shows them. ``state_bytes`` is None where the optimizer cannot be asked. ``lines`` are the rules
    that had a word in it.
    """

    name: str
    param_names: tuple[str, ...]
    hyper: Hyper
    when: When
    frozen_by_model: bool
    parameters: int
    nbytes: int
    state_bytes: int | None
    lines: tuple[Rule, ...]

    @property
    def tensors(self) -> int:
        """Number of tensors; a tied parameter is one."""
        return len(self.param_names)

    @property
    def frozen(self) -> bool:
        """Whether the group never trains."""
        return self.when == "frozen"

    @property
    def first_epoch(self) -> float:
        """The epoch in which it starts to train, counted from 0; infinity where it never does."""
        return first_epoch(self.when)

    @property
    def lr(self) -> float:
        """The group's own learning rate; NaN where it has none, or the optimizer makes it."""
        lr = dict(self.hyper).get("lr")
        return math.nan if lr is None else float(lr)

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON values."""
        return {
            "name": self.name,
            "when": self.when,
            "frozen_by_model": self.frozen_by_model,
            "hyper": dict(self.hyper),
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.nbytes,
            "state_bytes": self.state_bytes,
            "lines": [{"line": rule.line, "text": rule.text} for rule in self.lines],
            "param_names": self.param_names,
        }


@dataclass(frozen=True)
class ParamGroups(Shown):
    """Every parameter of a model in exactly one group, in model order.

    ``optimizer`` is the optimizer's name, and ``base`` are the keys it is made with.
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
    risks: tuple[str, ...]
    choice: OptimizerChoice = field(compare=False, repr=False)

    @property
    def trained(self) -> tuple[Group, ...]:
        """The groups that the optimizer gets, those that are unfrozen later included."""
        return tuple(group for group in self.groups if not group.frozen)

    def bn_eval_at(self, epoch: int) -> tuple[str, ...]:
        """Paths of the norms that stay in eval mode through ``train()`` in an epoch, from 0."""
        return tuple(norm.path for norm in self.norms if norm.until is None or epoch < norm.until)

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
            "base": dict(self.base),
            "rules": self.rules.path,
            "model": self.rules.model,
            "groups": [group.to_dict() for group in self.groups],
            "bn_eval": [asdict(norm) for norm in self.norms],
            "warnings": self.warnings,
            "total": {
                "tensors": sum(group.tensors for group in self.groups),
                "parameters": self.parameters,
                "trained_parameters": self.trained_parameters,
                "bytes": self.nbytes,
                "state_bytes": self.state_bytes,
            },
        }


def why(groups: ParamGroups, name: str) -> tuple[Firing, ...]:
    """What fired for a parameter, in order, with each attribute's value after it.

    Any of a tied parameter's names will do, wrapped or not. The first entries, with line 0
    where no ``base`` line said so, are where its hyper-parameters start.
    """
    wanted = unwrap_name(name)
    known = {
        unwrap_name(a): history for history in groups.histories for a in history.parameter.aliases
    }
    if wanted not in known:
        raise SelectorError(f"no parameter is called {name!r}{did_you_mean(wanted, known, 2)}")
    return known[wanted].firings
