"""What matching finds: pairs of names with their evidence, and what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.collapse import patterns
from surgery.matching.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """Target tensors that nothing distinguishes, the sources that any of them may come from, and
    why that stayed open. A hint decides it, for all blocks that are alike.

    ``hints`` are lines of which each decides it in one way, where the reason tells them. ``block``
    has the targets and the sources of the first of several blocks that are alike.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    reason: str
    hints: tuple[str, ...] = ()
    block: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    @property
    def question(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The targets and the sources of one block."""
        return self.block or (self.targets, self.sources)

    def __str__(self) -> str:
        targets, sources = self.question
        more = f", and {len(self.targets) - len(targets)} more in blocks alike" * bool(self.block)
        return f"{patterns(targets)}{more} <- one of {patterns(sources)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Match:
    """One target name, the source name that feeds it, and how the two were brought together.

    ``via`` is empty where both names are the same. ``recipe`` says how the target is made where it
    is more than that one source as it is. ``tier`` decided so (``"lines"``, ``"names"`` or
    ``"structure"``), and ``evidence`` is why. ``tied_to`` is another name of the target's tensor,
    whose match this is.
    """

    target: str
    source: str
    via: str = ""
    recipe: Recipe | None = None
    evidence: tuple[str, ...] = ()
    tier: str = "names"
    tied_to: str = ""


@dataclass(frozen=True, slots=True)
class Matches:
    """All matches, and why some names on either side have none although they could.

    ``open`` are groups that nothing distinguishes, ``ambiguous_sources`` reasons by source name;
    ``unmatched_target`` and ``unmatched_source`` say why all others have no match.
    """

    by_target: Mapping[str, Match]
    open: tuple[OpenGroup, ...] = ()
    ambiguous_sources: Mapping[str, str] = field(default_factory=dict)
    unmatched_target: str = "no source tensor of this name"
    unmatched_source: str = "no target tensor of this name"
