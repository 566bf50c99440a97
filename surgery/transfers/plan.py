"""The value that says where every target tensor comes from, before it happens.

Every target name is in exactly one step; every source name is used by a step, or listed with the
reason why it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from surgery.collecting import collector_paused
from surgery.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class Load:
    """The target tensor takes the source tensor's values, cast where the dtypes differ.

    ``via`` says how the names were brought together; it is empty where they are the same.
    """

    target: TensorSpec
    source: TensorSpec
    via: tuple[str, ...] = ()

    status = "loaded"

    @property
    def cast(self) -> str:
        """``"float16 -> float32"``, or empty where the dtypes agree."""
        if self.source.dtype == self.target.dtype:
            return ""
        return f"{self.source.dtype} -> {self.target.dtype}"

    @property
    def reason(self) -> str:
        cast = self.cast
        return ", ".join((*self.via, f"cast {cast}") if cast else self.via)


@dataclass(frozen=True, slots=True)
class KeepInit:
    """The target tensor keeps the values it has; ``reason`` says why.

    ``source`` is the tensor of that name, where there was one that does not fit. ``expected``
    says that the tensor is not a weight that anyone should miss (a counter that older files
    lack, an index that the constructor computes): it is no difference under ``strict``.
    """

    target: TensorSpec
    reason: str
    source: TensorSpec | None = None
    expected: bool = False

    status = "fresh"


Step = Load | KeepInit


@dataclass(frozen=True, slots=True)
class Unused:
    """A source tensor that no step uses. ``expected`` as in :class:`KeepInit`."""

    source: TensorSpec
    reason: str
    expected: bool = False


@dataclass(frozen=True)
class TransferPlan:
    """What goes where.

    ``steps`` are in the target's order, one for every target tensor. ``parameters`` names the
    targets that count towards ``loaded_fraction``: every parameter once, under the first of its
    names. ``ties`` are the target's names of one tensor, where it has more than one.
    ``unread`` are entries of the source that are no tensors of a kind that is read, each with
    the reason.
    """

    steps: tuple[Step, ...]
    unused: tuple[Unused, ...]
    parameters: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    @cached_property
    def by_target(self) -> Mapping[str, Step]:
        """Steps by target name."""
        return {step.target.name: step for step in self.steps}

    def names(self, status: str) -> tuple[str, ...]:
        """The target names with that status: ``"loaded"``, ``"adapted"`` or ``"fresh"``."""
        return tuple(step.target.name for step in self.steps if step.status == status)

    @property
    def loaded_fraction(self) -> float:
        """Share of the target's parameter elements that are loaded or adapted, 0 to 1.

        A target without parameters (buffers alone) counts its tensors' elements instead.
        """
        names = set(self.parameters) or set(self.by_target)
        steps = [step for step in self.steps if step.target.name in names]
        total = sum(step.target.numel for step in steps)
        loaded = sum(step.target.numel for step in steps if step.status != "fresh")
        return loaded / total if total else 1.0

    @property
    def casts(self) -> Mapping[str, int]:
        """How many tensors each kind of cast touches, such as ``{"float16 -> float32": 12}``."""
        return Counter(step.cast for step in self.steps if isinstance(step, Load) and step.cast)

    def refuse_unless(self, *, min_loaded: float = 0.5, strict: bool = False) -> None:
        """Raise TransferRefused where too little would load, or ``strict`` finds a difference.

        ``min_loaded`` is a share from 0 to 1. ``strict`` accepts no fresh tensor and no unused
        one, save those ``expected``.
        """
        from surgery.transfers.refusal import check

        check(self, min_loaded, strict)

    @collector_paused()
    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal plan."""
        return {
            "loaded_fraction": self.loaded_fraction,
            "steps": [_step_to_dict(step) for step in self.steps],
            "unused": [
                {"source": u.source.to_row(), "reason": u.reason, "expected": u.expected}
                for u in self.unused
            ],
            "unread": [[name, reason] for name, reason in self.unread],
            "parameters": list(self.parameters),
            "ties": [list(names) for names in self.ties],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransferPlan:
        """The inverse of :meth:`to_dict`. Other data raise KeyError, TypeError or ValueError."""
        return cls(
            steps=tuple(_step_from_dict(row) for row in data["steps"]),
            unused=tuple(
                Unused(TensorSpec.from_row(row["source"]), row["reason"], row["expected"])
                for row in data["unused"]
            ),
            parameters=tuple(data["parameters"]),
            ties=tuple(tuple(names) for names in data["ties"]),
            unread=tuple((name, reason) for name, reason in data["unread"]),
        )

    def __repr__(self) -> str:
        return (
            f"<TransferPlan: {len(self.steps)} steps, {len(self.unused)} unused, "
            f"loaded_fraction={self.loaded_fraction:.4f}>"
        )

    def __str__(self) -> str:
        from surgery.report import plan_report

        return plan_report(self).text()


def _step_to_dict(step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {
        "status": step.status,
        "target": step.target.to_row(),
        "source": step.source.to_row() if step.source else None,
        "reason": step.reason,
    }
    match step:
        case Load(via=via):
            data["via"] = list(via)
        case KeepInit(expected=expected):
            data["expected"] = expected
    return data


def _step_from_dict(row: Mapping[str, Any]) -> Step:
    target = TensorSpec.from_row(row["target"])
    source = TensorSpec.from_row(row["source"]) if row["source"] else None
    match row["status"], source:
        case "loaded", TensorSpec():
            return Load(target, source, tuple(row["via"]))
        case "fresh", _:
            return KeepInit(target, row["reason"], source, row["expected"])
    raise ValueError(f"no step has the status {row['status']!r} with the source {row['source']!r}")


def shape_text(spec: TensorSpec) -> str:
    """``(64, 3, 7, 7)``, without Python's comma for one axis."""
    return f"({', '.join(map(str, spec.shape))})"
