"""Whatever holds the old weights, behind one small face: specs, ties, and tensors on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from surgery.checkpoint.opening import open_checkpoint
from surgery.errors import SurgeryError
from surgery.specs import SourceSpec, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.checkpoint.places import Place

    SourceLike: TypeAlias = "str | Path | Mapping[str, torch.Tensor] | nn.Module | Weights"


class Weights(Protocol):
    """What a transfer reads: a :class:`~surgery.checkpoint.Checkpoint`, or tensors in memory."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]: ...

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def not_tensors(self) -> tuple[str, ...]: ...

    def place(self, name: str) -> Place | torch.Tensor:
        """Where the values are: in a file, or in memory, which is the tensor itself."""

    def tensor(self, name: str) -> torch.Tensor: ...


def names_of(weights: Weights) -> SourceSpec:
    """What planning may know of them."""
    others = tuple((name, "an entry that is no tensor") for name in weights.not_tensors)
    return SourceSpec(tuple(weights.specs), weights.ties, (*weights.unreadable, *others))


def open_source(source: SourceLike, key: str | None = None) -> Weights:
    """A path, a state dict, a module or a checkpoint -> what a transfer reads.

    ``key`` chooses among several state dicts, in a file or in a mapping of mappings. Raises
    :class:`~surgery.errors.CheckpointError` for a file or a mapping that holds no state dict.
    """
    if isinstance(source, str | Path):
        return open_checkpoint(source, key=key)
    if hasattr(source, "specs") and hasattr(source, "tensor"):
        if key is None:
            return cast("Weights", source)
        raise SurgeryError(f"key={key!r} chooses in a file or a mapping; this one is open already")
    if isinstance(source, Mapping) or hasattr(source, "state_dict"):
        from surgery.checkpoint.tensors.memory import hold

        return hold(source, key)
    raise SurgeryError(
        f"a source is a path, a state dict, a module or a checkpoint, not a {type(source).__name__}"
    )
