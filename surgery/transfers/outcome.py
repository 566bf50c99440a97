"""What a transfer did, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from surgery.transfers.plan import TransferPlan


@dataclass(frozen=True)
class TransferOutcome:
    """What a transfer did. ``str()`` is the table.

    ``overflowed`` are (target name, elements) where a cast turned finite values into infinities
    or NaN, or changed an integer. ``files`` were written, an index last.
    """

    plan: TransferPlan
    overflowed: tuple[tuple[str, int], ...] = ()
    files: tuple[Path, ...] = ()

    @cached_property
    def loaded(self) -> tuple[str, ...]:
        """Target names that took a source tensor's values."""
        return self.plan.names("loaded")

    @cached_property
    def adapted(self) -> tuple[str, ...]:
        """Target names whose values were computed from a source tensor of another form."""
        return self.plan.names("adapted")

    @cached_property
    def fresh(self) -> tuple[str, ...]:
        """Target names that kept the values they had."""
        return self.plan.names("fresh")

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Source names that nothing used, those that cannot be read included."""
        names = tuple(unused.source.name for unused in self.plan.unused)
        return (*names, *(name for name, _ in self.plan.unread))

    @property
    def loaded_fraction(self) -> float:
        """Share of the model's parameter elements that were loaded or adapted, 0 to 1."""
        return self.plan.loaded_fraction

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "loaded_fraction": self.loaded_fraction,
            "loaded": list(self.loaded),
            "adapted": list(self.adapted),
            "fresh": list(self.fresh),
            "unused": list(self.unused),
            "overflowed": [[name, count] for name, count in self.overflowed],
            "plan": self.plan.to_dict(),
        }

    def __repr__(self) -> str:
        adapted = f"{len(self.adapted)} adapted, " if self.adapted else ""
        return (
            f"<TransferOutcome: {len(self.loaded)} loaded, {adapted}{len(self.fresh)} fresh, "
            f"{len(self.unused)} unused, loaded_fraction={self.loaded_fraction:.4f}>"
        )

    def __str__(self) -> str:
        from surgery.report.transfers import outcome_report

        return outcome_report(self).text()
