"""Which norms keep their running statistics still.

A batch norm whose parameters are frozen still moves its running mean and variance whenever it
runs in training mode, so a norm that is frozen is held in eval mode as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from surgery.specs import ModelSpec
from surgery.tuning.actions import ActionKind
from surgery.tuning.history import History, first_epoch, owners
from surgery.tuning.matching import Match


@dataclass(frozen=True, slots=True)
class HeldNorm:
    """A norm that stays in eval mode: for epochs before ``until``, or for good where it is None."""

    path: str
    until: int | None = None


def held_norms(
    spec: ModelSpec, found: Sequence[Match], histories: Sequence[History]
) -> tuple[HeldNorm, ...]:
    """Every norm with running statistics that is frozen or ruled ``bn=eval``, in model order.

    It is held until its first parameter trains; one without parameters trains when the rules
    that mean its path say so.
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
