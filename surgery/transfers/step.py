"""What happens to one tensor of the target, and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from surgery.matching.recipes.recipe import Recipe
from surgery.matching.recipes.writing import recipe_to_dict
from surgery.showing import json_of
from surgery.specs import TensorSpec

#: What a method's settings are made of: JSON values, with tuples for arrays.
Setting: TypeAlias = "int | str | tuple[Setting, ...]"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which tier decided (``"lines"``, ``"names"``, ``"structure"``; empty: none), and why."""

    tier: str = ""
    because: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Method:
    """How a tensor of another shape is made.

    ``name`` is that of a resizer, ``reference`` the paper or function that says how, ``settings``
    what the computation goes by. ``initial`` counts the elements that keep the target's own values
    (a vocabulary's new rows, say); ``named`` says that somebody named the resizer for this tensor.
    """

    name: str
    reference: str
    settings: tuple[tuple[str, Setting], ...] = ()
    initial: int = 0
    named: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of the target: what becomes of it, and why.

    ``recipe`` makes its values of source tensors; None where it keeps its own. For a resized
    tensor it gives the values in the source's shape, and ``method`` the rest. ``counterpart`` is
    the source's tensor that belongs here and does not fit. ``recomputed`` says that the model
    makes the values itself (an index, a counter that older files lack), so that nobody misses
    them in a file.
    """

    target: TensorSpec
    recipe: Recipe | None
    state: str
    reason: str = ""
    evidence: Evidence = field(default_factory=Evidence)
    method: Method | None = None
    counterpart: TensorSpec | None = None
    recomputed: bool = False

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        """The source tensors that give it values, each once."""
        return self.recipe.sources if self.recipe else ()

    @property
    def source(self) -> TensorSpec | None:
        """The first of them, or the counterpart that does not fit."""
        return self.sources[0] if self.sources else self.counterpart

    @property
    def cast(self) -> str:
        """``"float16 -> float32"``, or empty where the dtypes agree."""
        sources = self.sources
        if not sources or sources[0].dtype == self.target.dtype:
            return ""
        return f"{sources[0].dtype} -> {self.target.dtype}"

    @property
    def taken(self) -> int:
        """Elements that the source gives."""
        if self.recipe is None:
            return 0
        return self.target.numel - (self.method.initial if self.method else 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a step that takes its source as it is has no recipe."""
        source = self.source
        data: dict[str, Any] = {
            "state": self.state,
            "target": self.target.to_row(),
            "source": source.to_row() if source else None,
            "reason": self.reason,
            "evidence": {"tier": self.evidence.tier, "because": list(self.evidence.because)},
            "recomputed": self.recomputed,
        }
        if self.recipe and not self.recipe.is_copy:
            data["recipe"] = recipe_to_dict(self.recipe)
        if self.method:
            data["method"] = json_of(self.method)
        return data


@dataclass(frozen=True, slots=True)
class Unused:
    """A source tensor that no step uses, and why. ``expected`` says that nobody misses it: another
    name of a tensor that is used, an index, what was left out as asked.
    """

    source: TensorSpec
    reason: str
    expected: bool = False
