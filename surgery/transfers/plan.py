"""Specs by specs -> :class:`TransferPlan`: where every target tensor comes from, before it happens.

Pure: no tensor is touched and no file opened. Every target name is in exactly one step, every
source name is used by a step or listed as unused with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from surgery.errors import CheckpointError, SurgeryError, TransferRefused
from surgery.specs import ModelSpec, TensorSpec
from surgery.transfers.names import Match, Matches, match_names
from surgery.transfers.renames import Renames

MATCHES = ("names", "structure")


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
        return ", ".join((*self.via, *([f"cast {self.cast}"] if self.cast else ())))


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
    names. ``ties`` are the target's names of one parameter, where it has more than one.
    """

    steps: tuple[Step, ...]
    unused: tuple[Unused, ...]
    parameters: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...] = ()

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
        """Raise :class:`TransferRefused` where too little would load, or ``strict`` differs.

        ``strict`` accepts no fresh tensor and no unused one, save those ``expected``.
        """
        if not any(step.status != "fresh" for step in self.steps):
            raise TransferRefused(
                "not one tensor of the source fits the target; nothing was changed",
                _why_so_little(self),
            )
        if self.loaded_fraction < min_loaded:
            raise TransferRefused(
                f"only {self.loaded_fraction:.1%} of the parameters would be loaded, and at least "
                f"{min_loaded:.0%} was asked for (min_loaded); nothing was changed",
                _why_so_little(self),
            )
        if strict and (differences := _differences(self)):
            raise TransferRefused(
                f"strict: {len(differences)} tensors differ between source and target; "
                "nothing was changed",
                _first(differences, 10),
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal plan."""
        return {
            "loaded_fraction": self.loaded_fraction,
            "steps": [_step_to_dict(step) for step in self.steps],
            "unused": [
                {"source": _row(u.source), "reason": u.reason, "expected": u.expected}
                for u in self.unused
            ],
            "parameters": list(self.parameters),
            "ties": [list(names) for names in self.ties],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransferPlan:
        """The inverse of :meth:`to_dict`. Other data raise KeyError, TypeError or ValueError."""
        return cls(
            steps=tuple(_step_from_dict(row) for row in data["steps"]),
            unused=tuple(
                Unused(_spec(row["source"]), row["reason"], row["expected"])
                for row in data["unused"]
            ),
            parameters=tuple(data["parameters"]),
            ties=tuple(tuple(names) for names in data["ties"]),
        )

    def __str__(self) -> str:
        from surgery.report import plan_report

        return plan_report(self).text()


def make_plan(
    sources: Sequence[TensorSpec],
    target: ModelSpec,
    *,
    match: str = "names",
    renames: Renames | None = None,
    source_ties: Sequence[Sequence[str]] = (),
) -> TransferPlan:
    """Decide where every tensor of ``target`` comes from.

    Raises :class:`~surgery.errors.RenameError` for rename lines that match nothing,
    :class:`~surgery.errors.TransferRefused` where renames send two sources to one target, and
    :class:`~surgery.errors.CheckpointError` for sources that no renaming can bring back.
    """
    _check_match(match)
    _refuse_flattened(sources)
    renamed, rename_lines = _renamed(sources, renames, source_ties)
    matches = match_names(renamed, target.by_name)
    steps = tuple(
        _step(tensor, matches, renamed, rename_lines, target) for tensor in target.tensors
    )
    return TransferPlan(
        steps=steps,
        unused=tuple(_unused(renamed, steps, matches, target)),
        parameters=tuple(p.name for p in target.parameters if p.name in target.by_name),
        ties=tuple(p.aliases for p in target.parameters if len(p.aliases) > 1),
    )


def _check_match(match: str) -> None:
    if match not in MATCHES:
        raise SurgeryError(f"match={match!r} is not known; expected 'names' or 'structure'")
    if match == "structure":
        raise SurgeryError(
            "match='structure' (pairing two implementations of one network by shape and order) "
            "has not been built yet; use match='names' with renames"
        )


def _refuse_flattened(sources: Sequence[TensorSpec]) -> None:
    flat = [s.name for s in sources if s.name.rpartition(".")[2].startswith("_flat_param")]
    if flat:
        raise CheckpointError(
            f"{flat[0]!r} is one rank's flattened FSDP shard; no renaming can bring its tensors "
            "back: save the full state dict (StateDictType.FULL_STATE_DICT, or "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict) and use that file"
        )


def _renamed(
    sources: Sequence[TensorSpec],
    renames: Renames | None,
    ties: Sequence[Sequence[str]],
) -> tuple[dict[str, TensorSpec], dict[str, tuple[int, ...]]]:
    """Specs by new name, and the rename lines behind each new name. The specs keep the old."""
    if renames is None:
        return {spec.name: spec for spec in sources}, {}
    new_names = renames.apply(spec.name for spec in sources)
    by_new: dict[str, TensorSpec] = {}
    tied = [frozenset(group) for group in ties]
    clashes = []
    for spec in sources:
        new, _ = new_names[spec.name]
        other = by_new.setdefault(new, spec)
        if other is not spec and not any({other.name, spec.name} <= group for group in tied):
            clashes.append(f"{other.name} and {spec.name} -> {new}")
    if clashes:
        raise TransferRefused(
            f"{renames.path} sends two source tensors to one name; nothing was changed",
            _first(clashes, 10),
        )
    return by_new, {new: lines for new, lines in new_names.values() if lines}


def _step(
    tensor: TensorSpec,
    matches: Matches,
    renamed: Mapping[str, TensorSpec],
    rename_lines: Mapping[str, tuple[int, ...]],
    target: ModelSpec,
) -> Step:
    match, tie = _match_of(tensor, matches, target)
    if match is None:
        return _keep(tensor, matches, renamed)
    source = renamed[match.source]
    if source.shape != tensor.shape:
        reason = f"shape differs: source {_shape(source)}, target {_shape(tensor)}"
        return KeepInit(tensor, reason, source, expected=_is_index(tensor))
    if problem := _uncastable(source, tensor):
        return KeepInit(tensor, problem, source)
    via = [match.via] if match.via else []
    via += [f"renamed by line {line}" for line in rename_lines.get(match.source, ())]
    via += [f"tied to {tie}"] if tie else []
    return Load(tensor, source, tuple(via))


def _match_of(tensor: TensorSpec, matches: Matches, target: ModelSpec) -> tuple[Match | None, str]:
    """The tensor's match, else that of another of its names (a file may hold a tie once)."""
    if match := matches.by_target.get(tensor.name):
        return match, ""
    parameter = target.parameter_of.get(tensor.name)
    for alias in parameter.aliases if parameter else ():
        if match := matches.by_target.get(alias):
            return match, alias
    return None, ""


def _keep(tensor: TensorSpec, matches: Matches, renamed: Mapping[str, TensorSpec]) -> KeepInit:
    leaf = tensor.name.rpartition(".")[2]
    if reason := matches.ambiguous_targets.get(tensor.name):
        return KeepInit(tensor, f"ambiguous: {reason}; say which with a rename")
    if leaf == "num_batches_tracked":
        # torch.nn.modules.batchnorm: versions before 2 did not save the counter.
        return KeepInit(tensor, "a counter that the source does not hold", expected=True)
    if _is_index(tensor):
        return KeepInit(tensor, "an index that the constructor computes", expected=True)
    return KeepInit(tensor, "no source tensor of this name")


def _is_index(tensor: TensorSpec) -> bool:
    """Integers and flags (Swin's relative_position_index, position_ids) are not weights."""
    return not tensor.is_floating


def _uncastable(source: TensorSpec, target: TensorSpec) -> str:
    if source.is_floating == target.is_floating:
        complex_lost = source.dtype.startswith("complex") and not target.dtype.startswith("complex")
        return f"a cast {source.dtype} -> {target.dtype} would drop values" if complex_lost else ""
    return f"dtype differs in kind: source {source.dtype}, target {target.dtype}"


def _unused(
    renamed: Mapping[str, TensorSpec],
    steps: Sequence[Step],
    matches: Matches,
    target: ModelSpec,
) -> Iterable[Unused]:
    used = {step.source.name for step in steps if step.source and step.status != "fresh"}
    misfit = {s.source.name: s for s in steps if isinstance(s, KeepInit) and s.source}
    computed = set(target.computed)
    for new, source in renamed.items():
        if source.name in used:
            continue
        if source.name in misfit:
            step = misfit[source.name]
            yield Unused(source, f"does not fit {step.target.name}", step.expected)
        elif new in matches.ambiguous_sources:
            yield Unused(source, f"ambiguous: {matches.ambiguous_sources[new]}")
        elif new in computed or _is_index(source):
            yield Unused(source, "an index that the target computes itself", expected=True)
        else:
            yield Unused(source, "no target tensor of this name")


def _differences(plan: TransferPlan) -> list[str]:
    fresh = [
        f"target {step.target.name}: {step.reason}"
        for step in plan.steps
        if isinstance(step, KeepInit) and not step.expected
    ]
    return fresh + [
        f"source {unused.source.name}: {unused.reason}"
        for unused in plan.unused
        if not unused.expected
    ]


def _why_so_little(plan: TransferPlan) -> list[str]:
    """First names of both sides, then the likely cause."""
    fresh = [s for s in plan.steps if isinstance(s, KeepInit)]
    return [
        *_first([f"target wants {s.target.name} {_shape(s.target)}: {s.reason}" for s in fresh], 5),
        *_first([f"source has   {u.source.name} {_shape(u.source)}" for u in plan.unused], 5),
        f"likely cause: {_likely_cause(plan, fresh)}",
    ]


def _likely_cause(plan: TransferPlan, fresh: Sequence[KeepInit]) -> str:
    misfits = [step for step in fresh if step.source is not None]
    if not plan.unused and not misfits:
        return "the source holds only a part of the target; lower min_loaded to accept that"
    if len(misfits) > len(fresh) / 2:
        return "the names agree but the shapes do not: another size of the same architecture"
    if any(step.reason.startswith("ambiguous") for step in fresh):
        return "several tensors fit one name; say which is meant with a rename (--map)"
    if swap := _common_swap(plan, fresh):
        old, new = swap
        return f"another nesting; a rename file with the line '{old} -> {new}' would match more"
    source_shapes = Counter(unused.source.shape for unused in plan.unused)
    target_shapes = Counter(step.target.shape for step in fresh)
    shared = (source_shapes & target_shapes).total()
    if shared > 0.8 * len(fresh):
        return "the same shapes under other names: another implementation of this architecture"
    return "the source is another architecture, or another state dict inside the file (--key)"


def _common_swap(plan: TransferPlan, fresh: Sequence[KeepInit]) -> tuple[str, str] | None:
    """The (source prefix, target prefix) whose exchange would match the most names, if many."""
    by_suffix: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for step in fresh:
        head, _, tail = step.target.name.partition(".")
        by_suffix.setdefault((tail, step.target.shape), []).append(head)
    swaps = Counter(
        (head, target_head)
        for unused in plan.unused
        for head, _, tail in [unused.source.name.partition(".")]
        for target_head in by_suffix.get((tail, unused.source.shape), ())
        if tail and head != target_head
    )
    if not swaps:
        return None
    (swap, count), *_ = swaps.most_common(1)
    return swap if count >= max(2, len(fresh) / 2) else None


def _first(lines: Sequence[str], count: int) -> list[str]:
    rest = len(lines) - count
    return [*lines[:count], *([f"... and {rest} more"] if rest > 0 else [])]


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"


def _row(spec: TensorSpec) -> list[Any]:
    return [spec.name, list(spec.shape), spec.dtype]


def _spec(row: Sequence[Any]) -> TensorSpec:
    name, shape, dtype = row
    return TensorSpec(name, tuple(shape), dtype)


def _step_to_dict(step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {
        "status": step.status,
        "target": _row(step.target),
        "source": _row(step.source) if step.source else None,
        "reason": step.reason,
    }
    match step:
        case Load(via=via):
            data["via"] = list(via)
        case KeepInit(expected=expected):
            data["expected"] = expected
    return data


def _step_from_dict(row: Mapping[str, Any]) -> Step:
    target = _spec(row["target"])
    source = _spec(row["source"]) if row["source"] else None
    match row["status"], source:
        case "loaded", TensorSpec():
            return Load(target, source, tuple(row["via"]))
        case "fresh", _:
            return KeepInit(target, row["reason"], source, row["expected"])
    raise ValueError(f"no step has the status {row['status']!r} with the source {row['source']!r}")
