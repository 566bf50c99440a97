"""The tensors of a source under the names that a mapping gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from surgery.errors import CheckpointError, TransferRefused
from surgery.matching.lines.given import Given, given_by
from surgery.matching.lines.mapping import TensorMapping
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.wording import first_lines

#: FSDP's ``_flat_param`` and fairscale's ``flat_param_0``.
_FLATTENED = re.compile(r"(^|\.)_?flat_param(_\d+)?$")


def refuse_flattened(sources: Sequence[TensorSpec]) -> None:
    """Raise CheckpointError for one rank's part of a model that FSDP flattened."""
    flat = [spec.name for spec in sources if _FLATTENED.search(spec.name)]
    if flat:
        raise CheckpointError(
            f"{flat[0]!r} is one rank's flattened FSDP shard; no renaming can bring its tensors "
            "back: save the full state dict (StateDictType.FULL_STATE_DICT, or "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict) and use that file"
        )


@dataclass(frozen=True, slots=True)
class Renamed:
    """A source tensor under its new name, and the lines of the mapping that made it."""

    spec: TensorSpec
    lines: tuple[int, ...] = ()


def renamed_by(
    mapping: TensorMapping | None, source: SourceSpec, target: ModelSpec
) -> tuple[dict[str, Renamed], Given]:
    """Source tensors by new name, and what the lines say besides; two names of one tensor may
    land on one. Raises TransferRefused where two others do.
    """
    if mapping is None:
        return {spec.name: Renamed(spec) for spec in source.specs}, Given()
    given = given_by(mapping, source.specs, target)
    tied = {name: group[0] for group in source.ties for name in group}
    by_new: dict[str, Renamed] = {}
    clashes = []
    for spec in source.specs:
        new, lines = given.names[spec.name]
        other = by_new.setdefault(new, Renamed(spec, lines)).spec
        if other is not spec and tied.get(other.name) != tied.get(spec.name, spec.name):
            numbers = ", ".join(map(str, by_new[new].lines + lines))
            clashes.append(f"{other.name} and {spec.name} -> {new} (line {numbers})")
    if clashes:
        raise TransferRefused(
            f"{mapping.path} sends two source tensors to one name; nothing was changed",
            [
                *first_lines(clashes, 10),
                "a line 'NAME -> (unused)' leaves one of two out",
            ],
        )
    return by_new, given
