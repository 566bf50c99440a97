"""The signature of an architecture: all that planning asks of it, and no values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's names, shapes, dtypes and ties, where its heads are, its modules' versions.

    ``versions`` are by module path, as ``state_dict()._metadata`` has them. Which buffers the
    constructor computes that no state dict holds is ``spec.computed``.
    """

    spec: ModelSpec
    heads: tuple[str, ...]
    versions: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal value."""
        return {
            "spec": self.spec.to_dict(),
            "heads": list(self.heads),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Signature:
        """The inverse of :meth:`to_dict`. Other data raise KeyError, TypeError or ValueError."""
        return cls(
            ModelSpec.from_dict(data["spec"]),
            tuple(str(path) for path in data["heads"]),
            {str(path): int(version) for path, version in dict(data["versions"]).items()},
        )
