"""The value that says where every target tensor comes from, before it happens.

Every target name is in exactly one step; every source name is used by a step, or listed with the
reason why it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from surgery.collecting import collector_paused
from surgery.matching.matches import RefusedGroup
from surgery.matching.operations import Operation
from surgery.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class Load:
    """The target tensor takes the source tensor's values, cast where the dtypes differ.

    ``via`` says how the names were brought together; it is empty where they are the same.
    ``evidence`` is why these two belong together, where structure paired them.
    """

    target: TensorSpec
    source: TensorSpec
    via: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    status = "loaded"

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        return (self.source,)

    @property
    def cast(self) -> str:
        """``"float16 -> float32"``, or empty where the dtypes agree."""
        return _cast_text(self.source, self.target)

    @property
    def reason(self) -> str:
        return _reason(self.via, self.cast)


@dataclass(frozen=True, slots=True)
class Assemble:
    """The target tensor is made of rows of source tensors, in its own shape; no value changes.

    Two implementations of one layer keep the same numbers otherwise: q, k and v apart or fused,
    a matrix as (in, out), a 1x1 convolution where the other has a linear layer. ``via`` and
    ``evidence`` as in :class:`Load`.
    """

    target: TensorSpec
    operation: Operation
    via: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    status = "loaded"

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        return self.operation.sources

    @property
    def source(self) -> TensorSpec:
        """The first of the sources."""
        return self.sources[0]

    @property
    def cast(self) -> str:
        """As for :class:`Load`."""
        return _cast_text(self.source, self.target)

    @property
    def reason(self) -> str:
        return _reason((*self.via, self.operation.name(self.target.shape)), self.cast)


#: What an adapter's settings are made of: JSON values, with tuples for arrays.
Setting: TypeAlias = "int | str | tuple[Setting, ...]"


@dataclass(frozen=True, slots=True)
class Adapt:
    """The target tensor's values are computed from source tensors of another form.

    ``adapter`` is its name in :data:`surgery.transfers.resize.ADAPTERS`, ``reason`` what it
    does and what it assumes, ``reference`` the paper or function that says how; ``settings`` are
    what the computation goes by. ``initial`` counts the elements that keep the target's own
    values (a vocabulary's new rows, say), ``chosen`` says that somebody named the adapter for
    this tensor. ``via`` as in :class:`Load`.
    """

    target: TensorSpec
    sources: tuple[TensorSpec, ...]
    adapter: str
    reason: str
    reference: str
    settings: tuple[tuple[str, Setting], ...] = ()
    initial: int = 0
    chosen: bool = False
    via: tuple[str, ...] = ()

    status = "adapted"

    @property
    def source(self) -> TensorSpec:
        """The first of the sources, of which most adapters have one."""
        return self.sources[0]

    @property
    def cast(self) -> str:
        """As for :class:`Load`; the computation comes first, in float32 at the least."""
        return _cast_text(self.source, self.target)


def _reason(via: tuple[str, ...], cast: str) -> str:
    return ", ".join((*via, f"cast {cast}") if cast else via)


def _cast_text(source: TensorSpec, target: TensorSpec) -> str:
    return "" if source.dtype == target.dtype else f"{source.dtype} -> {target.dtype}"


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

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        """None: no source gives it values."""
        return ()


Step = Load | Assemble | Adapt | KeepInit


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
    the reason. ``refused`` are groups of tensors that structure could not tell apart.
    """

    steps: tuple[Step, ...]
    unused: tuple[Unused, ...]
    parameters: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    refused: tuple[RefusedGroup, ...] = ()

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

        Elements of an adapted tensor that keep their initial values do not count. A target
        without parameters (buffers alone) counts its tensors' elements instead.
        """
        names = set(self.parameters) or set(self.by_target)
        steps = [step for step in self.steps if step.target.name in names]
        total = sum(step.target.numel for step in steps)
        loaded = sum(map(_taken_elements, steps))
        return loaded / total if total else 1.0

    @property
    def casts(self) -> Mapping[str, int]:
        """How many tensors each kind of cast touches, such as ``{"float16 -> float32": 12}``."""
        steps = (step for step in self.steps if not isinstance(step, KeepInit))
        return Counter(step.cast for step in steps if step.cast)

    def select(self, selector: str) -> tuple[Step, ...]:
        """The steps of the target tensors that a selector names, see :mod:`surgery.patterns`.

        Raises :class:`~surgery.errors.SelectorError` where it names none.
        """
        from surgery.transfers.selecting import selected

        return selected(self, selector)

    def refuse_unless(
        self, *, min_loaded: float = 0.5, strict: bool = False, keep_open: bool = False
    ) -> None:
        """Raise TransferRefused where too little would load, where structure leaves groups open,
        or where ``strict`` finds a difference.

        ``min_loaded`` is a share from 0 to 1. ``keep_open`` accepts that what is open keeps its
        initial values, though the network will then compute something else. ``strict`` accepts
        no fresh tensor and no unused one, save those ``expected``, and no adapted one, save
        those whose adapter was ``chosen`` by name.
        """
        from surgery.transfers.refusal import check

        check(self, min_loaded, strict, keep_open)

    @collector_paused()
    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal plan."""
        return {
            "loaded_fraction": self.loaded_fraction,
            "steps": [step_to_dict(step) for step in self.steps],
            "unused": [
                {"source": u.source.to_row(), "reason": u.reason, "expected": u.expected}
                for u in self.unused
            ],
            "unread": [[name, reason] for name, reason in self.unread],
            "parameters": list(self.parameters),
            "ties": [list(names) for names in self.ties],
            "refused": [
                {
                    "targets": list(g.targets),
                    "sources": list(g.sources),
                    "reason": g.reason,
                    "fused": g.fused,
                }
                for g in self.refused
            ],
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
            refused=tuple(
                RefusedGroup(
                    tuple(row["targets"]), tuple(row["sources"]), row["reason"], row["fused"]
                )
                for row in data["refused"]
            ),
        )

    def __repr__(self) -> str:
        return (
            f"<TransferPlan: {len(self.steps)} steps, {len(self.unused)} unused, "
            f"loaded_fraction={self.loaded_fraction:.4f}>"
        )

    def __str__(self) -> str:
        from surgery.report.transfers import plan_report

        return plan_report(self).text()


def _taken_elements(step: Step) -> int:
    match step:
        case KeepInit():
            return 0
        case Adapt(initial=initial):
            return step.target.numel - initial
    return step.target.numel


def step_to_dict(step: Step) -> dict[str, Any]:
    """One step as JSON values."""
    data: dict[str, Any] = {
        "status": step.status,
        "target": step.target.to_row(),
        "source": step.source.to_row() if step.source else None,
        "reason": step.reason,
    }
    match step:
        case Load(via=via, evidence=evidence):
            data |= {"via": list(via), "evidence": list(evidence)}
        case Assemble():
            data |= {
                "sources": [source.to_row() for source in step.sources],
                "operation": step.operation.to_dict(),
                "via": list(step.via),
                "evidence": list(step.evidence),
            }
        case KeepInit(expected=expected):
            data["expected"] = expected
        case Adapt():
            data |= {
                "sources": [source.to_row() for source in step.sources],
                "adapter": step.adapter,
                "reference": step.reference,
                "settings": [list(setting) for setting in step.settings],
                "initial": step.initial,
                "chosen": step.chosen,
                "via": list(step.via),
            }
    return data


def _step_from_dict(row: Mapping[str, Any]) -> Step:
    target = TensorSpec.from_row(row["target"])
    source = TensorSpec.from_row(row["source"]) if row["source"] else None
    match row["status"], source:
        case "loaded", TensorSpec() if "operation" in row:
            operation = Operation.from_dict(row["operation"], row["sources"])
            return Assemble(target, operation, tuple(row["via"]), tuple(row["evidence"]))
        case "loaded", TensorSpec():
            return Load(target, source, tuple(row["via"]), tuple(row["evidence"]))
        case "fresh", _:
            return KeepInit(target, row["reason"], source, row["expected"])
        case "adapted", TensorSpec():
            return Adapt(
                target=target,
                sources=tuple(TensorSpec.from_row(source) for source in row["sources"]),
                adapter=row["adapter"],
                reason=row["reason"],
                reference=row["reference"],
                settings=tuple((key, _frozen(value)) for key, value in row["settings"]),
                initial=row["initial"],
                chosen=row["chosen"],
                via=tuple(row["via"]),
            )
    raise ValueError(f"no step has the status {row['status']!r} with the source {row['source']!r}")


def _frozen(value: Any) -> Setting:
    """A setting as it was before JSON made arrays of its tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if isinstance(value, int | str):
        return value
    raise TypeError(f"a setting is a number, a text or an array of these, not {value!r}")


def shape_text(spec: TensorSpec) -> str:
    """``(64, 3, 7, 7)``, without Python's comma for one axis."""
    return f"({', '.join(map(str, spec.shape))})"
