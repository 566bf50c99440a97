"""Whether what was saved for a parameter is what an optimizer keeps for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from surgery.training.kept import Kept

Fate = Literal["carried", "fresh", "reshaped"]

#: Equal keys with equal meaning: running means of the gradient and of its square, and a count.
#: SGD, LARS and Muon all keep a ``momentum_buffer``, and each means another thing by it.
_ADAMS = frozenset({"Adam", "AdamW", "RAdam", "LayerAdaptiveAdam"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one parameter's state, and why it does not stay."""

    fate: Fate
    reason: str = ""


CARRIED = Verdict("carried")


def judge(
    entry: Mapping[str, Any],
    kept: Kept | None,
    shape: tuple[int, ...],
    kinds: tuple[str | None, str],
) -> Verdict:
    """``kinds`` are the classes that saved and that are to go on; ``kept`` is what these keep."""
    saved_kind, kind = kinds
    if saved_kind is not None and not _are_kin(saved_kind, kind):
        return Verdict("fresh", f"{_told(saved_kind)} saved it, {_told(kind)} is to go on")
    if kept is None:
        return _judge_unasked(entry, shape, kinds)
    if not kept:
        return Verdict("fresh", f"{_told(kind)} keeps nothing under these settings")
    dropped = entry.keys() - kept.keys()
    if kept.keys() - entry.keys() or (dropped and saved_kind != kind):
        return Verdict("fresh", f"{_told(kind)} keeps {_keys(kept)}, saved is {_keys(entry)}")
    for key, spec in kept.items():
        if spec is not None and (found := _shape(entry[key])) != spec.shape:
            return Verdict("reshaped", f"{key} was {found} and is to be {spec.shape}")
    return CARRIED


def _judge_unasked(
    entry: Mapping[str, Any], shape: tuple[int, ...], kinds: tuple[str | None, str]
) -> Verdict:
    """An optimizer that only a step can ask: the same class, and nothing of another shape."""
    if kinds[0] != kinds[1]:
        return Verdict("fresh", f"what {_told(kinds[1])} keeps cannot be told before its step")
    shapes = (found for value in entry.values() if (found := _shape(value)))
    for found in shapes:
        if found != shape:
            return Verdict("reshaped", f"was {found} and is to be {shape}")
    return CARRIED


def _are_kin(one: str, other: str) -> bool:
    return one == other or {_told(one), _told(other)} <= _ADAMS


def _told(kind: str) -> str:
    return kind.rpartition(":")[2]


def _keys(keys: Collection[str]) -> str:
    return ", ".join(map(str, keys)) or "nothing"


def _shape(value: Any) -> tuple[int, ...] | None:
    """A number is a tensor without dimensions: older Adams counted steps so. None for others."""
    import torch

    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return () if isinstance(value, int | float) else None
