"""What structure decides, as the matches that a plan is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.matching.matches import Match, Matches
from surgery.matching.structure import StructureStep, match_structure
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.wrappers import unwrap_name, unwrap_names

#: Buffers that constructors compute, by the last segment of their name: what is persistent in
#: one library or version and not in another, and is a weight in none.
INDEXES = frozenset(
    {
        "attn_mask",
        "inv_freq",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
        "token_type_ids",
    }
)


@dataclass(frozen=True, slots=True)
class Code:
    """What is known of the code of both sides: the model that the source was saved from, and the
    orders in which modules run (:func:`surgery.networks.running_order.running_order`), which
    are asked for only where both are known.
    """

    source: ModelSpec | None = None
    source_order: Callable[[], Sequence[str]] = tuple
    target_order: Callable[[], Sequence[str]] = tuple


UNKNOWN = Code()


def match_by_structure(
    sources: Mapping[str, TensorSpec],
    ties: Iterable[tuple[str, ...]],
    target: ModelSpec,
    hints: Iterable[str],
    code: Code,
) -> Matches:
    """Bring two implementations together; ``sources`` map names after renames to specs.

    ``ties`` are the source's own names of one tensor. Raises as
    :func:`~surgery.matching.structure.match_structure` does.
    """
    found = match_structure(
        _weights(sources, ties),
        target,
        hints=hints,
        source_model=code.source,
        source_calls=code.source_order() if code.source else (),
        target_calls=code.target_order() if code.source else (),
    )
    by_target = {
        x.target.name: Match(x.target.name, x.source.name, evidence=x.evidence, tier="structure")
        for x in found.resized
    }
    # A bias of zeros alone has no source: the softmax does not see a bias of k, so it stays fresh.
    by_target |= {step.target.name: _match(step, sources) for step in found.steps if step.sources}
    by_target |= {match.target: match for match in _integers(sources, target)}
    return Matches(
        by_target,
        found.open,
        {name: f"left open: {group.reason}" for group in found.open for name in group.sources},
        unmatched_target=found.different or "no source tensor is its counterpart",
        unmatched_source=found.different or "no target tensor is its counterpart",
    )


def is_index(name: str) -> bool:
    """Whether a tensor of that name is computed by constructors, and is a weight nowhere."""
    return name.rpartition(".")[2] in INDEXES


def _weights(sources: Mapping[str, TensorSpec], ties: Iterable[tuple[str, ...]]) -> SourceSpec:
    new_names: dict[str, list[str]] = {}
    for new, spec in sources.items():
        new_names.setdefault(spec.name, []).append(new)
    tied = (tuple(new for old in names for new in new_names.get(old, ())) for names in ties)
    specs = (
        spec if spec.name == new else replace(spec, name=new)
        for new, spec in sources.items()
        if not is_index(new)
    )
    return SourceSpec(tuple(specs), tuple(names for names in tied if len(names) > 1))


def _match(step: StructureStep, sources: Mapping[str, TensorSpec]) -> Match:
    recipe = step.recipe
    return Match(
        step.target.name,
        recipe.sources[0].name,
        recipe=None if recipe.is_copy else recipe.with_sources(lambda spec: sources[spec.name]),
        evidence=step.evidence,
        tier="structure",
    )


def _integers(sources: Mapping[str, TensorSpec], target: ModelSpec) -> Iterator[Match]:
    """Integers of one name and shape that are no index: structure looks at weights alone."""
    integers = [x for x in target.tensors if not (x.is_floating or is_index(x.name))]
    by_clean = {clean: raw for raw, clean in unwrap_names(sources).items()} if integers else {}
    for spec in integers:
        source = by_clean.get(unwrap_name(spec.name))
        if source is None:
            continue
        if sources[source].shape == spec.shape and not sources[source].is_floating:
            yield Match(spec.name, source, evidence=("integers of the same name and shape",))
