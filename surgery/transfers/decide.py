"""Specs by specs -> a plan. Pure: no tensor is touched and no file opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgery.collecting import collector_paused
from surgery.errors import CheckpointError, RenameError, SurgeryError, TransferRefused
from surgery.matching.by_structure import UNKNOWN, Code, HintsLike, is_index, match_by_structure
from surgery.matching.lines.given import Given, given_by
from surgery.matching.lines.renames import Renames
from surgery.matching.matches import Match, Matches
from surgery.matching.names import match_names
from surgery.matching.operations import Operation
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers.plan import (
    Adapt,
    Assemble,
    KeepInit,
    Load,
    Step,
    TransferPlan,
    Unused,
    shape_text,
)
from surgery.transfers.refusal import first_lines
from surgery.transfers.resize.asked import Asked
from surgery.transfers.resize.choose import Choice
from surgery.transfers.resize.layers import Moved, relayer
from surgery.wrappers import unwrap_name, unwrap_names

MATCHES = ("names", "structure")
ON_MISMATCH = ("keep", "adapt")


@collector_paused()
def make_plan(
    source: SourceSpec,
    target: ModelSpec,
    *,
    match: str = "names",
    renames: Renames | None = None,
    hints: HintsLike = (),
    code: Code = UNKNOWN,
    on_mismatch: str = "keep",
    adapters: Sequence[Asked] = (),
) -> TransferPlan:
    """Decide where every tensor of ``target`` comes from.

    ``match="structure"`` brings two implementations of one network together; ``hints`` settle
    what it leaves open, and ``code`` is further evidence, of the source as long as nothing is
    renamed. ``on_mismatch="adapt"`` computes what has another shape where an adapter fits;
    ``adapters`` are those that were asked for by name, whatever ``on_mismatch`` says.

    Raises :class:`~surgery.errors.SurgeryError` for an adapter that was asked for and fits
    nothing and for a hint that settles nothing, :class:`~surgery.errors.RenameError` for rename
    lines that match nothing, :class:`~surgery.errors.TransferRefused` where renames send two
    sources to one target, and :class:`~surgery.errors.CheckpointError` for sources that no
    renaming can bring back.
    """
    _check_match(match, hints)
    _check_on_mismatch(on_mismatch)
    _refuse_flattened(source.specs)
    renamed, given = _renamed(source, renames, target)
    code = code if renames is None else replace(code, source=None)
    found = _matches(source, given.left(renamed), target, match, hints, code)
    matches = given.added_to(found)
    aliases = {name: names for names in target.ties for name in names}
    layers = [asked for asked in adapters if asked.adapter.name == "depth"]
    relayered = relayer(layers, matches, renamed, target.by_name)
    matches = relayered.matches
    others = [asked for asked in adapters if asked not in layers]
    choice = _choice(renamed, matches, target, others, automatic=on_mismatch == "adapt")
    unread = dict(source.unread)
    moved, left_out = relayered.moved, given.left_out
    decide = _Decision(renamed, matches, target, aliases, unread, choice, moved, left_out)
    steps = tuple(map(decide.step, target.tensors))
    choice.refuse_unused()
    return TransferPlan(
        steps=steps,
        unused=tuple(_unused(decide, steps, source, relayered.left_out)),
        parameters=tuple(_counted_names(target)),
        ties=target.ties,
        unread=tuple(source.unread),
        refused=matches.refused,
    )


def _matches(
    source: SourceSpec,
    renamed: Mapping[str, _Entry],
    target: ModelSpec,
    match: str,
    hints: HintsLike,
    code: Code,
) -> Matches:
    sources = {new: entry.spec for new, entry in renamed.items()}
    if match == "names":
        return match_names(sources, target.by_name)
    named = _named(renamed, target)
    left = {new: spec for new, spec in sources.items() if new not in named}
    found = match_by_structure(left, source.ties, _without(target, named.values()), hints, code)
    lines = {new_target: Match(new_target, new) for new, new_target in named.items()}
    return replace(found, by_target={**found.by_target, **lines})


def _named(renamed: Mapping[str, _Entry], target: ModelSpec) -> dict[str, str]:
    """New name -> target name of the sources that a line calls as a target tensor is called: that
    is said, and structure need not find it.
    """
    called = {new: unwrap_name(new) for new, entry in renamed.items() if entry.lines}
    by_clean = {clean: raw for raw, clean in unwrap_names(target.by_name).items()} if called else {}
    return {new: by_clean[clean] for new, clean in called.items() if clean in by_clean}


def _without(target: ModelSpec, names: Iterable[str]) -> ModelSpec:
    """The target without some tensors, and without the other names of these."""
    gone = set(names)
    gone |= {name for group in target.ties if gone & {*group} for name in group}
    if not gone:
        return target
    return replace(target, tensors=tuple(x for x in target.tensors if x.name not in gone))


def _counted_names(target: ModelSpec) -> Iterable[str]:
    """Each parameter once, under the first of its names that the state dict has."""
    for parameter in target.parameters:
        for alias in parameter.aliases:
            if alias in target.by_name:
                yield alias
                break


def _check_match(match: str, hints: HintsLike) -> None:
    if match not in MATCHES:
        raise SurgeryError(f"match={match!r} is not known; expected 'names' or 'structure'")
    if match == "names" and hints:
        raise SurgeryError(
            "hints settle what structure leaves open, and names leave nothing open; say "
            "match='structure', or use renames"
        )


def _check_on_mismatch(on_mismatch: str) -> None:
    if on_mismatch not in ON_MISMATCH:
        raise SurgeryError(f"on_mismatch={on_mismatch!r} is not known; expected 'keep' or 'adapt'")


def _choice(
    sources: Mapping[str, _Entry],
    matches: Matches,
    target: ModelSpec,
    asked: Sequence[Asked],
    *,
    automatic: bool,
) -> Choice:
    if not (asked or automatic):  # nothing will look at it, and there may be 100,000 tensors
        return Choice((), automatic, {}, target, ())
    pairs = [
        (sources[match.source].spec, target.by_name[match.target])
        for match in matches.by_target.values()
        if match.operation is None  # three projections in one are no change of width
    ]
    specs = {name: entry.spec for name, entry in sources.items()}
    return Choice(asked, automatic, specs, target, pairs)


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


def _renamed(
    source: SourceSpec, renames: Renames | None, target: ModelSpec
) -> tuple[dict[str, _Entry], Given]:
    """Source tensors by new name, and what the lines say besides; two names of one tensor may
    land on one.
    """
    if renames is None:
        return {spec.name: _Entry(spec) for spec in source.specs}, Given()
    new_names, problems = renames.applied(spec.name for spec in source.specs)
    given, more = given_by(renames, source.specs, new_names, target)
    if problems or more:
        raise RenameError(renames.path, [*problems, *more])
    tied = {name: group[0] for group in source.ties for name in group}
    by_new: dict[str, _Entry] = {}
    clashes = []
    for spec in source.specs:
        new, lines = given.names[spec.name], new_names[spec.name][1]
        other = by_new.setdefault(new, _Entry(spec, lines)).spec
        if other is not spec and tied.get(other.name) != tied.get(spec.name, spec.name):
            clashes.append(f"{other.name} and {spec.name} -> {new}")
    if clashes:
        raise TransferRefused(
            f"{renames.path} sends two source tensors to one name; nothing was changed",
            first_lines(clashes, 10),
        )
    return by_new, given


@dataclass(frozen=True, slots=True)
class _Decision:
    """Everything that a step is decided from."""

    sources: Mapping[str, _Entry]
    matches: Matches
    target: ModelSpec
    aliases: Mapping[str, tuple[str, ...]]
    unread: Mapping[str, str]
    choice: Choice
    moved: Mapping[str, Moved]
    left_out: Mapping[str, str]
    found: dict[tuple[object, ...], tuple[Match, str] | None] = field(default_factory=dict)
    tied_adapted: dict[tuple[object, ...], Adapt | None] = field(default_factory=dict)

    def step(self, tensor: TensorSpec) -> Step:
        """The adapter that was asked for, else the tensor's own match if it fits, else that of
        another of its names (a file may hold a tie once), else an adapter, else why it stays as
        it is.
        """
        own = self.matches.by_target.get(tensor.name)
        if own and own.operation:
            return self.assemble(tensor, own, own.operation)
        if own and self.choice.asked and (step := self.chosen(tensor, own)):
            return step
        if own and not self.misfit(own, tensor):
            return self.moved_here(tensor, own) or self.load(tensor, own)
        if tensor.name in self.aliases and (tied := self.tied(tensor)):
            return self.load(tensor, *tied)
        adapted, why = self.adapted(tensor)
        if adapted:
            return adapted
        if own:
            source = self.sources[own.source].spec
            reason = "; ".join(filter(None, (self.misfit(own, tensor), why)))
            return KeepInit(tensor, reason, source, is_index(tensor.name))
        return self.keep(tensor)

    def moved_here(self, tensor: TensorSpec, match: Match) -> Adapt | None:
        """The step that gives the tensor another layer's values; a counter is merely loaded."""
        moved = self.moved.get(tensor.name)
        if moved is None or not tensor.is_floating:
            return None
        source = self.sources[match.source].spec
        return Adapt(
            target=tensor,
            sources=(source,),
            adapter="depth",
            reason=moved.reason,
            reference=moved.reference,
            chosen=True,
            via=self.via(match),
        )

    def chosen(self, tensor: TensorSpec, match: Match) -> Adapt | None:
        entry = self.sources[match.source]
        return self.choice.chosen(match.source, entry.spec, tensor, self.via(match))

    def adapted(self, tensor: TensorSpec) -> tuple[Adapt | None, str]:
        """The step of an adapter that fits the tensor's own match, or that of another of its
        names; or why none does.
        """
        if not self.choice.automatic:
            return None, ""
        own = self.adapted_from(tensor, tensor.name)
        if isinstance(own, Adapt) or tensor.name not in self.aliases:
            return (own, "") if isinstance(own, Adapt) else (None, own)
        names = self.aliases[tensor.name]
        key = (names[0], tensor.shape, tensor.dtype)
        if key not in self.tied_adapted:  # looked for once, as in `tied`
            found = (self.adapted_from(tensor, name, f"tied to {name}") for name in names)
            self.tied_adapted[key] = next((step for step in found if isinstance(step, Adapt)), None)
        step = self.tied_adapted[key]
        return (replace(step, target=tensor) if step else None), own

    def adapted_from(self, tensor: TensorSpec, name: str, *more: str) -> Adapt | str:
        """What an adapter makes of the match of ``name``, or why none fits."""
        match = self.matches.by_target.get(name)
        if match is None or _uncastable(self.sources[match.source].spec, tensor):
            return ""
        source, via = self.sources[match.source].spec, (*self.via(match), *more)
        # The adapter looks at the name that was matched: a tied head is a vocabulary, too.
        return self.choice.fitting(match.source, source, self.target.by_name[name], via)

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
            name = f"{source.name} " if match.evidence else ""  # structure pairs any two names
            shapes = f"source {name}{shape_text(source)}, target {shape_text(tensor)}"
            return f"shape differs: {shapes}"
        return _uncastable(source, tensor)

    def load(self, tensor: TensorSpec, match: Match, *more: str) -> Load:
        source = self.sources[match.source].spec
        return Load(tensor, source, (*self.via(match), *more), match.evidence)

    def assemble(self, tensor: TensorSpec, match: Match, operation: Operation) -> Step:
        """The step that makes a tensor of rows of others, or why they cannot be joined."""
        sources = operation.sources
        dtypes = dict.fromkeys(source.dtype for source in sources)
        if why := _uncastable(sources[0], tensor):
            return KeepInit(tensor, why, sources[0])
        if len(dtypes) > 1:
            why = f"its {len(sources)} sources have different dtypes: {', '.join(dtypes)}"
            return KeepInit(tensor, why, sources[0])
        return Assemble(tensor, operation, self.via(match), match.evidence)

    def via(self, match: Match) -> tuple[str, ...]:
        """How the names of a match were brought together."""
        lines = self.sources[match.source].lines
        return tuple(filter(None, (match.via, *map("renamed by line {}".format, lines))))

    def keep(self, tensor: TensorSpec) -> KeepInit:
        if reason := self.matches.ambiguous_targets.get(tensor.name):
            return KeepInit(tensor, reason)
        if reason := self.unread.get(tensor.name):
            return KeepInit(tensor, f"the source has {reason}")
        if tensor.name.rpartition(".")[2] == "num_batches_tracked":
            # torch.nn.modules.batchnorm: versions before 2 did not save the counter.
            return KeepInit(tensor, "a counter that the source does not hold", expected=True)
        if is_index(tensor.name):
            return KeepInit(tensor, "an index that the constructor computes", expected=True)
        return KeepInit(tensor, self.matches.unmatched_target)


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


def _unused(
    decide: _Decision, steps: Sequence[Step], source: SourceSpec, left_out: frozenset[str]
) -> Iterable[Unused]:
    used = {spec.name for step in steps for spec in step.sources}
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
        elif new in decide.left_out:
            yield Unused(spec, decide.left_out[new], expected=True)
        elif new in left_out:
            yield Unused(spec, "in a layer that was left out, as asked", expected=True)
        elif spec.name in misfit:
            yield Unused(spec, "does not fit its target", misfit[spec.name].expected)
        elif new in decide.matches.ambiguous_sources:
            yield Unused(spec, decide.matches.ambiguous_sources[new])
        elif unwrap_name(new) in computed or is_index(spec.name):
            yield Unused(spec, "an index that the target computes itself", expected=True)
        else:
            yield Unused(spec, decide.matches.unmatched_source)
