"""Which norms keep their running statistics still.

A batch norm whose parameters are frozen still moves its running mean and variance whenever it
runs in training mode, so a norm that is frozen is held in eval mode as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.specs import ModelSpec, ModuleSpec
from surgery.tuning.history import History, When, first_epoch
from surgery.tuning.matching import Match


@dataclass(frozen=True, slots=True)
class HeldNorm:
    """A norm that stays in eval mode: for epochs before ``until``, or for good where it is None."""

    path: str
    until: int | None = None


def held_norms(
    spec: ModelSpec, found: Sequence[Match], histories: Sequence[History]
) -> tuple[HeldNorm, ...]:
    """Every norm with running statistics that is frozen or ruled ``bn=eval``, in model order."""
    ruled = _last_words(found, "bn")
    frozen = _frozen_until(spec, found, histories)
    return tuple(
        norm
        for module in spec.modules
        if module.has_statistics and (norm := _held(module.path, ruled, frozen)) is not None
    )


def _held(path: str, ruled: Mapping[str, object], frozen: Mapping[str, float]) -> HeldNorm | None:
    if path in ruled:
        return HeldNorm(path) if ruled[path] == "eval" else None
    until = frozen.get(path, 0)
    if until == 0:
        return None
    return HeldNorm(path, None if until == math.inf else int(until))


def _last_words(found: Sequence[Match], attribute: str) -> dict[str, object]:
    """What the last line said about each norm."""
    words: dict[str, object] = {}
    for match in found:
        for action in match.rule.actions:
            if action.attribute == attribute:
                words.update(dict.fromkeys(match.norms, action.value))
    return words


def _frozen_until(
    spec: ModelSpec, found: Sequence[Match], histories: Sequence[History]
) -> dict[str, float]:
    """The epoch at which the first parameter of each norm trains.

    A norm without parameters trains when the rules that mean its path say so.
    """
    trains_from: dict[str, float] = {}
    for history in histories:
        for alias in history.parameter.aliases:
            path = alias.rpartition(".")[0]
            trains_from[path] = min(history.trains_from, trains_from.get(path, math.inf))
    words = _last_words(found, "when")
    for module in _stateful(spec):
        if module.path not in trains_from and module.path in words:
            when: When = words[module.path]  # type: ignore[assignment]
            trains_from[module.path] = first_epoch(when)
    return trains_from


def _stateful(spec: ModelSpec) -> Iterator[ModuleSpec]:
    return (module for module in spec.modules if module.has_statistics)
