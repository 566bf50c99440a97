"""A state dict on its way into a file, whatever its values are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from surgery.checkpoint.writing.values import Values
from surgery.specs import TensorSpec


@dataclass(frozen=True)
class Draft:
    """``values`` are in the state dict's order, under all names; ``ties`` groups the names of one
    tensor, which is stored under the first.

    ``versions`` are those of modules by path, ``extras`` entries that are no tensors, and
    ``metadata`` is text kept with the tensors.
    """

    values: Mapping[str, Values]
    ties: tuple[tuple[str, ...], ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Every further name of a tensor to its first one."""
        return {name: names[0] for names in self.ties for name in names[1:]}

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What is to be stored, by name: every tensor once."""
        return {
            name: TensorSpec.of(name, values)
            for name, values in self.values.items()
            if name not in self.aliases
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(spec.nbytes for spec in self.specs.values())
