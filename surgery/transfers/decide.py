"""Specs by specs -> a plan. Pure: no tensor is touched and no file opened."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from surgery.collecting import collector_paused
from surgery.errors import CheckpointError, SelectorError, did_you_mean
from surgery.matching.by_structure import UNKNOWN, Code, is_index, match_by_structure
from surgery.matching.lines.given import Given, Renamed, given_by
from surgery.matching.lines.mapping import read_mapping
from surgery.matching.matches import Match, Matches
from surgery.matching.names import match_names
from surgery.matching.recipes.recipe import Recipe, View
from surgery.matching.recipes.words import in_words
from surgery.networks.selection import name_the_head
from surgery.networks.unfilled import Blueprint
from surgery.specs import ModelSpec, SourceSpec, TensorSpec, is_real
from surgery.transfers.plan import Ends, TransferPlan
from surgery.transfers.request import TransferRequest
from surgery.transfers.selecting import names_selected, no_tensor
from surgery.transfers.step import Evidence, Method, Step, Unused
from surgery.wording import printable, shape_text
from surgery.wrappers import unwrap_name, unwrap_names

if TYPE_CHECKING:
    from surgery.transfers.resize.choose import Choice


@collector_paused()
def decide(request: TransferRequest, ends: Ends, code: Code = UNKNOWN) -> TransferPlan:
    """Where every tensor of the target comes from, by the names at both ends.

    ``code`` is further evidence for structure: of the source as long as nothing is renamed.

    Raises :class:`~surgery.errors.SurgeryError` for a resizer that was named and fits nothing and
    for a hint that decides nothing, :class:`~surgery.errors.MappingError` for lines of the mapping
    that match nothing, :class:`~surgery.errors.TransferRefused` where it sends two sources to one
    target, :class:`~surgery.errors.SelectorError` for a pattern of ``fresh`` that is no tensor's,
    and :class:`~surgery.errors.CheckpointError` for sources that no renaming can bring back.
    """
    source, target, spec = ends.names, ends.target, ends.target.spec
    _refuse_flattened(source.specs)
    _refuse_unknown_fresh(request, target)
    mapping = read_mapping(request.mapping)
    given = given_by(mapping, source, spec)
    code = replace(code, source=None) if mapping and mapping.renames else code
    found = given.added_to(_matches(request, source, given.left, spec, code))
    undecided = {name: group.reason for group in found.open for name in group.targets}
    decision = _Decision(given, found, spec, dict(source.unread), undecided)
    if request.resize is not None:
        decision = _resizing(request, decision)
    decision = replace(decision, matches=_with_ties(decision))
    steps = tuple(map(decision.step, spec.tensors))
    if decision.choice:
        decision.choice.refuse_unused(steps)
    return TransferPlan(
        steps=steps,
        unused=tuple(_unused(decision, steps, source)),
        parameters=tuple(_counted_names(spec)),
        ties=spec.ties,
        unread=tuple(source.unread),
        open=decision.matches.open,
        head=_head_tensors(target, steps),
        request=request,
        target=spec,
        ends=ends,
    )


def _resizing(request: TransferRequest, decision: _Decision) -> _Decision:
    """The same with tensors of another shape, and layers of another number, as was asked for."""
    from surgery.transfers.resize.choose import Choice
    from surgery.transfers.resize.depth import restack
    from surgery.transfers.resize.options import read_options

    options = read_options(request.resize)
    target = decision.target.by_name
    stacks = [option for option in options if option.is_depth]
    matches, moved, left_out = restack(stacks, decision.matches, decision.given.sources, target)
    pairs = [
        (decision.given.sources[match.source].spec, target[match.target])
        for match in matches.by_target.values()
        if match.recipe is None  # three projections in one are no change of width
    ]
    specs = {name: entry.spec for name, entry in decision.given.sources.items()}
    others = tuple(option for option in options if not option.is_depth)
    return replace(
        decision,
        matches=matches,
        choice=Choice(others, specs, decision.target, tuple(pairs)),
        moved=moved,
        layers_left_out=left_out,
    )


def _with_ties(decision: _Decision) -> Matches:
    """Every name of a tied tensor with the match of another, where that fits better than its own: a
    file may hold a tie once.
    """
    by_target = dict(decision.matches.by_target)
    for names in decision.target.ties:
        fits = {name: decision.fit(by_target[name]) for name in names if name in by_target}
        best = max(fits, key=fits.__getitem__, default="")
        for name in names if best else ():
            if fits.get(name, -1) < fits[best]:
                by_target[name] = replace(by_target[best], target=name, tied_to=best)
    return replace(decision.matches, by_target=by_target)


def _head_tensors(target: Blueprint, steps: Sequence[Step]) -> tuple[str, ...]:
    """The tensors of the target's heads, which may be new; looked for where anything is."""
    if not any(step.state == "fresh" and not step.recomputed for step in steps):
        return ()
    paths = tuple(f"{path}." for path in target.find_heads())
    names = unwrap_names(target.spec.by_name)
    return tuple(name for name, clean in names.items() if clean.startswith(paths))


#: FSDP's ``_flat_param`` and fairscale's ``flat_param_0``.
_FLATTENED = re.compile(r"(^|\.)_?flat_param(_\d+)?$")


def _refuse_flattened(sources: Iterable[TensorSpec]) -> None:
    """One rank's part of a model that FSDP flattened."""
    for name in (spec.name for spec in sources if _FLATTENED.search(spec.name)):
        raise CheckpointError(
            f"{name!r} is one rank's flattened FSDP shard; no renaming can bring its tensors "
            "back: save the full state dict (StateDictType.FULL_STATE_DICT, or "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict) and use that file"
        )


def _refuse_unknown_fresh(request: TransferRequest, target: Blueprint) -> None:
    """A pattern that means no tensor is a slip, and would accept nothing."""
    selectors = request.accepted_fresh
    heads = target.find_heads() or None if name_the_head(selectors) else None
    found = names_selected(target.spec, selectors, heads)
    for selector, names in zip(selectors, found, strict=True):
        if not names:
            raise SelectorError(f"fresh: {no_tensor(selector, target.spec)}")


def _matches(
    request: TransferRequest,
    source: SourceSpec,
    renamed: Mapping[str, Renamed],
    target: ModelSpec,
    code: Code,
) -> Matches:
    sources = {new: entry.spec for new, entry in renamed.items()}
    if request.match == "names":
        return match_names(sources, target.by_name)
    named = _named(renamed, target)
    left = {new: spec for new, spec in sources.items() if new not in named}
    rest = _without(target, named.values())
    found = match_by_structure(left, source.ties, rest, request.hints, code)
    lines = {new_target: Match(new_target, new) for new, new_target in named.items()}
    return replace(found, by_target={**found.by_target, **lines})


def _named(renamed: Mapping[str, Renamed], target: ModelSpec) -> dict[str, str]:
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


@dataclass(frozen=True)
class _Decision:
    """Everything that a step is decided from. ``choice`` resizes, ``moved`` are layers that are
    given another layer's values, ``layers_left_out`` names in layers that no layer is given;
    ``open`` says why a target's tensor stays open.
    """

    given: Given
    matches: Matches
    target: ModelSpec
    unread: Mapping[str, str]
    open: Mapping[str, str] = field(default_factory=dict)
    choice: Choice | None = None
    moved: Mapping[str, Method] = field(default_factory=dict)
    layers_left_out: frozenset[str] = frozenset()

    def step(self, tensor: TensorSpec) -> Step:
        """A recipe, or the resizer that was named; else the match, if it fits; else a resizer that
        fits; else why it keeps its values.
        """
        match = self.matches.by_target.get(tensor.name)
        if match is None:
            return self.without_match(tensor)
        misfit = self.misfit(match)
        found = self.resizer(match)
        if not isinstance(found, str):
            whole = View.of(self.spec(match))
            return self.taking(tensor, match, whole, "resized", *found)
        if misfit:
            why = "; ".join(filter(None, (misfit, found)))
            known = is_index(tensor.name)
            return Step(tensor, None, "fresh", why, counterpart=self.spec(match), recomputed=known)
        recipe = match.recipe or View.of(self.spec(match))
        # A counter of another layer is merely loaded.
        moved = self.moved.get(tensor.name) if tensor.is_floating else None
        state = "resized" if moved else "loaded" if recipe.moves else "computed"
        return self.taking(tensor, match, recipe, state, moved)

    def resizer(self, match: Match) -> tuple[Method, str] | str:
        """The resizer that fits a match, and what it does; else why none does."""
        if self.choice is None or match.recipe:
            return ""
        # A tied head is a vocabulary, too: its tensor goes by the name that was matched.
        target = self.target.by_name[match.tied_to or match.target]
        return self.choice.find((match.source, self.spec(match), target))

    def fit(self, match: Match) -> int:
        """How well a match fits: 2 as it is, 1 by a resizer, 0 not at all."""
        if not self.misfit(match):
            return 2
        return 0 if isinstance(self.resizer(match), str) else 1

    def spec(self, match: Match) -> TensorSpec:
        return self.given.sources[match.source].spec

    def misfit(self, match: Match) -> str:
        """Why the source cannot be moved here as it is; empty where it can."""
        source, target = self.spec(match), self.target.by_name[match.target]
        if match.recipe:
            dtypes = dict.fromkeys(source.dtype for source in match.recipe.sources)
            if not match.recipe.moves:
                return _uncomputable([*dtypes, target.dtype])
            if len(dtypes) > 1:
                count = len(match.recipe.sources)
                return f"its {count} sources have different dtypes: {', '.join(dtypes)}"
        elif source.shape != target.shape:
            name = f"{source.name} " if match.evidence else ""  # structure pairs any two names
            shapes = f"source {name}{shape_text(source.shape)}, target {shape_text(target.shape)}"
            return f"shape differs: {shapes}"
        return _uncastable(source, target)

    def taking(
        self,
        tensor: TensorSpec,
        match: Match,
        recipe: Recipe,
        state: str,
        method: Method | None,
        reason: str = "",
    ) -> Step:
        """The step that gives the tensor what ``recipe`` makes, and how its match came about."""
        lines = self.given.sources[match.source].lines
        evidence = Evidence("lines" if lines else match.tier, match.evidence)
        step = Step(tensor, recipe, state, "", evidence, method)
        why = (
            reason,
            match.via,
            *(f"renamed by line {line}" for line in lines),
            match.tied_to and f"tied to {match.tied_to}",
            "" if recipe.is_copy else in_words(recipe),
            step.cast and f"cast {step.cast}",
        )
        return replace(step, reason=", ".join(filter(None, why)))

    def without_match(self, tensor: TensorSpec) -> Step:
        if reason := self.open.get(tensor.name):
            return Step(tensor, None, "open", reason)
        if reason := self.unread.get(tensor.name):
            return Step(tensor, None, "fresh", f"the source has {reason}")
        if reason := self.given.left_out.get(f".{tensor.name}"):  # as given_by keeps it
            return Step(tensor, None, "fresh", f"the source's is {reason}")
        if tensor.name.rpartition(".")[2] == "num_batches_tracked":
            # torch.nn.modules.batchnorm: versions before 2 did not save the counter.
            reason = "a counter that the source does not hold"
            return Step(tensor, None, "fresh", reason, recomputed=True)
        if is_index(tensor.name):
            reason = "an index that the constructor computes"
            return Step(tensor, None, "fresh", reason, recomputed=True)
        return Step(tensor, None, "fresh", self.matches.unmatched_target)


def _uncomputable(dtypes: Iterable[str]) -> str:
    others = [dtype for dtype in dtypes if not is_real(dtype) or "float4" in dtype]
    return f"only real numbers are computed with, not {others[0]}" if others else ""


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


def _unused(decision: _Decision, steps: Sequence[Step], source: SourceSpec) -> Iterator[Unused]:
    used = {spec.name for step in steps for spec in step.sources}
    misfit = {step.counterpart.name: step for step in steps if step.counterpart}
    tied_to_used = {name for group in source.ties if used & {*group} for name in group}
    new_names = {entry.spec.name: new for new, entry in decision.given.sources.items()}
    segments = {segment for name in decision.target.by_name for segment in name.split(".")}
    computed = set(unwrap_names(decision.target.computed).values())
    for spec in source.specs:
        if spec.name in used:
            continue
        new = new_names.get(spec.name, spec.name)
        if spec.name in tied_to_used:
            yield Unused(spec, "another name of a tensor that is used", expected=True)
        elif new in decision.given.left_out:
            yield Unused(spec, decision.given.left_out[new], expected=True)
        elif new in decision.layers_left_out:
            yield Unused(spec, "in a layer that was left out, as asked", expected=True)
        elif spec.name in misfit:
            yield Unused(spec, "does not fit its target", misfit[spec.name].recomputed)
        elif new in decision.matches.ambiguous_sources:
            yield Unused(spec, decision.matches.ambiguous_sources[new])
        elif unwrap_name(new) in computed or is_index(spec.name):
            yield Unused(spec, "an index that the target computes itself", expected=True)
        elif new in decision.given.sources and decision.given.sources[new].lines:
            yield Unused(spec, _misled(new, decision.given.sources[new].lines, segments))
        else:
            yield Unused(spec, decision.matches.unmatched_source)


def _misled(new: str, lines: Sequence[int], segments: Collection[str]) -> str:
    """Why lines of the mapping bring a tensor nowhere: the first segment that no target has."""
    unknown = next((part for part in unwrap_name(new).split(".") if part not in segments), "")
    what = f"{printable(unknown)!r}{did_you_mean(unknown, segments)}" if unknown else "such name"
    return f"renamed by line {', '.join(map(str, lines))}, and the target has no {what}"
