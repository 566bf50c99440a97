"""What matching finds: pairs of names with their evidence, and what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.matching.operations import Operation


@dataclass(frozen=True, slots=True)
class RefusedGroup:
    """Target tensors that nothing tells apart, the sources that any of them may come from, and
    why that stayed open. A hint settles it. ``fused`` names a projection that makes q, k and v in
    rows of an unknown order, where that is the reason.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    reason: str
    fused: str = ""

    def __str__(self) -> str:
        return f"{', '.join(self.targets)} <- one of {', '.join(self.sources)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Match:
    """One target name, the source name that feeds it, and how the two were brought together.

    ``via`` is empty where both names are the same. ``operation`` says how the target is made
    where it is more than that one source as it is; ``evidence`` is why they belong together.
    """

    target: str
    source: str
    via: str = ""
    operation: Operation | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matches:
    """All matches, and why some names on either side have none although they could.

    ``unmatched_target`` and ``unmatched_source`` say why all others have none; ``refused`` as in
    :class:`~surgery.transfers.plan.TransferPlan`.
    """

    by_target: Mapping[str, Match]
    ambiguous_targets: Mapping[str, str] = field(default_factory=dict)
    ambiguous_sources: Mapping[str, str] = field(default_factory=dict)
    unmatched_target: str = "no source tensor of this name"
    unmatched_source: str = "no target tensor of this name"
    refused: tuple[RefusedGroup, ...] = ()
