"""Specs by specs -> a plan. Pure: no tensor is touched and no file opened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.collecting import collector_paused
from surgery.errors import CheckpointError, SurgeryError, TransferRefused
from surgery.specs import ModelSpec, TensorSpec
from surgery.transfers.names import Match, Matches, match_names
from surgery.transfers.plan import KeepInit, Load, Step, TransferPlan, Unused, shape_text
from surgery.transfers.refusal import first_lines
from surgery.transfers.renames import Renames
from surgery.wrappers import unwrap_name, unwrap_names

MATCHES = ("names", "structure")


@collector_paused()
def make_plan(
    source: SourceNames,
    target: ModelSpec,
    *,
    match: str = "names",
    renames: Renames | None = None,
) -> TransferPlan:
    """Decide where every tensor of ``target`` comes from.

    Raises :class:`~surgery.errors.RenameError` for rename lines that match nothing,
    :class:`~surgery.errors.TransferRefused` where renames send two sources to one target, and
    :class:`~surgery.errors.CheckpointError` for sources that no renaming can bring back.
    """
    _check_match(match)
    _refuse_flattened(source.specs)
    renamed = _renamed(source, renames)
    matches = match_names({new: entry.spec for new, entry in renamed.items()}, target.by_name)
    aliases = {name: names for names in target.ties for name in names}
    decide = _Decision(renamed, matches, target, aliases, dict(source.unread))
    steps = tuple(map(decide.step, target.tensors))
    return TransferPlan(
        steps=steps,
        unused=tuple(_unused(decide, steps, source)),
        parameters=tuple(_counted_names(target)),
        ties=target.ties,
        unread=tuple(source.unread),
    )


def _counted_names(target: ModelSpec) -> Iterable[str]:
    """Each parameter once, under the first of its names that the state dict has."""
    for parameter in target.parameters:
        for alias in parameter.aliases:
            if alias in target.by_name:
                yield alias
                break


@dataclass(frozen=True, slots=True)
class SourceNames:
    """What planning knows of a source: its specs, names of one tensor, entries it cannot read."""

    specs: tuple[TensorSpec, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        counts = Counter(spec.name for spec in self.specs)
        if doubled := [name for name, count in counts.items() if count > 1]:
            raise CheckpointError(f"the source has {doubled[0]!r} more than once")


def _check_match(match: str) -> None:
    if match not in MATCHES:
        raise SurgeryError(f"match={match!r} is not known; expected 'names' or 'structure'")
    if match == "structure":
        raise SurgeryError(
            "match='structure' (pairing two implementations of one network by shape and order) "
            "has not been built yet; use match='names' with renames"
        )


#: FSDP's ``_flat_param`` and fairscale's ``flat_param_0``.
_FLATTENED = re.compile(r"(^|\.)_?flat_param(_\d+)?$")


def _refuse_flattened(sources: Sequence[TensorSpec]) -> None:
    flat = [spec.name for spec in sources if _FLATTENED.search(spec.name)]
    if flat:
        raise CheckpointError(
            f"{flat[0]!r} is one rank's flattened FSDP shard; no renaming can bring its tensors "
            "back: save the full state dict (StateDictType.FULL_STATE_DICT, or "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict) and use that file"
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """A source tensor under its new name, and the rename lines that made it."""

    spec: TensorSpec
    lines: tuple[int, ...] = ()


def _renamed(source: SourceNames, renames: Renames | None) -> dict[str, _Entry]:
    """Source tensors by new name; two names of one tensor may land on one."""
    if renames is None:
        return {spec.name: _Entry(spec) for spec in source.specs}
    new_names = renames.apply(spec.name for spec in source.specs)
    tied = {name: group[0] for group in source.ties for name in group}
    by_new: dict[str, _Entry] = {}
    clashes = []
    for spec in source.specs:
        new, lines = new_names[spec.name]
        other = by_new.setdefault(new, _Entry(spec, lines)).spec
        if other is not spec and tied.get(other.name) != tied.get(spec.name, spec.name):
            clashes.append(f"{other.name} and {spec.name} -> {new}")
    if clashes:
        raise TransferRefused(
            f"{renames.path} sends two source tensors to one name; nothing was changed",
            first_lines(clashes, 10),
        )
    return by_new


@dataclass(frozen=True, slots=True)
class _Decision:
    """Everything that a step is decided from."""

    sources: Mapping[str, _Entry]
    matches: Matches
    target: ModelSpec
    aliases: Mapping[str, tuple[str, ...]]
    unread: Mapping[str, str]
    found: dict[tuple[object, ...], tuple[Match, str] | None] = field(default_factory=dict)

    def step(self, tensor: TensorSpec) -> Step:
        """The tensor's own match if it fits, else that of another of its names (a file may hold
        a tie once), else why it stays as it is.
        """
        own = self.matches.by_target.get(tensor.name)
        if own and not self.misfit(own, tensor):
            return self.load(tensor, own)
        if tensor.name in self.aliases and (tied := self.tied(tensor)):
            return self.load(tensor, *tied)
        if own:
            source = self.sources[own.source].spec
            return KeepInit(tensor, self.misfit(own, tensor), source, _is_index(tensor))
        return self.keep(tensor)

    def tied(self, tensor: TensorSpec) -> tuple[Match, str] | None:
        """The first match among the tensor's names that fits, looked for once: all its names
        have the same one.
        """
        names = self.aliases[tensor.name]
        key = (names[0], tensor.shape, tensor.dtype)
        if key not in self.found:
            matches = ((self.matches.by_target.get(name), name) for name in names)
            self.found[key] = next(
                (
                    (match, f"tied to {name}")
                    for match, name in matches
                    if match and not self.misfit(match, tensor)
                ),
                None,
            )
        return self.found[key]

    def misfit(self, match: Match, tensor: TensorSpec) -> str:
        """Why the matched source cannot be copied; empty where it can."""
        source = self.sources[match.source].spec
        if source.shape != tensor.shape:
            return f"shape differs: source {shape_text(source)}, target {shape_text(tensor)}"
        return _uncastable(source, tensor)

    def load(self, tensor: TensorSpec, match: Match, *more: str) -> Load:
        entry = self.sources[match.source]
        via = (match.via, *map("renamed by line {}".format, entry.lines), *more)
        return Load(tensor, entry.spec, tuple(filter(None, via)))

    def keep(self, tensor: TensorSpec) -> KeepInit:
        if reason := self.matches.ambiguous_targets.get(tensor.name):
            return KeepInit(tensor, reason)
        if reason := self.unread.get(tensor.name):
            return KeepInit(tensor, f"the source has {reason}")
        if tensor.name.rpartition(".")[2] == "num_batches_tracked":
            # torch.nn.modules.batchnorm: versions before 2 did not save the counter.
            return KeepInit(tensor, "a counter that the source does not hold", expected=True)
        if _is_index(tensor):
            return KeepInit(tensor, "an index that the constructor computes", expected=True)
        return KeepInit(tensor, "no source tensor of this name")


#: Buffers that constructors compute, by the last segment of their name: what is persistent in
#: one library or version and not in another, and is a weight in none.
_INDEXES = frozenset(
    {
        "attn_mask",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
        "token_type_ids",
    }
)


def _is_index(tensor: TensorSpec) -> bool:
    return tensor.name.rpartition(".")[2] in _INDEXES


def _uncastable(source: TensorSpec, target: TensorSpec) -> str:
    if source.dtype == target.dtype:
        return ""
    if source.is_floating != target.is_floating:
        return f"dtype differs in kind: source {source.dtype}, target {target.dtype}"
    if source.dtype.startswith("complex") and not target.dtype.startswith("complex"):
        return f"a cast {source.dtype} -> {target.dtype} would drop values"
    if "float4" in source.dtype + target.dtype:
        return f"torch has no cast {source.dtype} -> {target.dtype}"
    return ""


def _unused(decide: _Decision, steps: Sequence[Step], source: SourceNames) -> Iterable[Unused]:
    used = {step.source.name for step in steps if step.source and step.status != "fresh"}
    misfit = {
        step.source.name: step for step in steps if isinstance(step, KeepInit) and step.source
    }
    tied_to_used = {name for group in source.ties if used & {*group} for name in group}
    new_names = {entry.spec.name: new for new, entry in decide.sources.items()}
    computed = set(unwrap_names(decide.target.computed).values())
    for spec in source.specs:
        if spec.name in used:
            continue
        new = new_names.get(spec.name, spec.name)
        if spec.name in tied_to_used:
            yield Unused(spec, "another name of a tensor that is used", expected=True)
        elif spec.name in misfit:
            yield Unused(spec, "does not fit its target", misfit[spec.name].expected)
        elif new in decide.matches.ambiguous_sources:
            yield Unused(spec, decide.matches.ambiguous_sources[new])
        elif unwrap_name(new) in computed or _is_index(spec):
            yield Unused(spec, "an index that the target computes itself", expected=True)
        else:
            yield Unused(spec, "no target tensor of this name")
