"""Whatever holds the old weights, behind one small face: specs, ties, and tensors on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from surgery.describe import tensor_spec
from surgery.errors import CheckpointError, SurgeryError
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    SourceLike: TypeAlias = "str | Path | Mapping[str, torch.Tensor] | nn.Module | Source"


class Source(Protocol):
    """What a transfer reads: a :class:`~surgery.checkpoint.Checkpoint`, or tensors in memory."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]: ...

    def tensor(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True)
class Tensors:
    """A state dict in memory. The tensors are the caller's own and are only read."""

    tensors: Mapping[str, torch.Tensor]

    @cached_property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(tensor_spec(name, value) for name, value in self.tensors.items())

    @cached_property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Names that show the very same elements."""
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, value in self.tensors.items():
            if value.numel() and not value.is_meta:
                place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
                groups.setdefault(place, []).append(name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def open_source(source: SourceLike, key: str | None = None) -> Source:
    """A path, a state dict, a module or a checkpoint -> what a transfer reads.

    ``key`` chooses among several state dicts, in a file or in a mapping of mappings. Raises
    :class:`~surgery.errors.CheckpointError` for a file that cannot be read and for mappings
    that hold something other than tensors.
    """
    from torch import nn

    if isinstance(source, str | Path):
        from surgery.checkpoint import open_checkpoint

        return open_checkpoint(source, key=key)
    if isinstance(source, nn.Module):
        source = source.state_dict()
    if isinstance(source, Mapping):
        return Tensors(_tensors_of(source, key))
    if hasattr(source, "specs") and hasattr(source, "tensor"):
        return source
    raise SurgeryError(
        f"a source is a path, a state dict, a module or a checkpoint; found a "
        f"{type(source).__name__}"
    )


def _tensors_of(state: Mapping[str, object], key: str | None) -> dict[str, torch.Tensor]:
    import torch

    if key is not None:
        chosen = state.get(key)
        if not isinstance(chosen, Mapping):
            raise CheckpointError(
                f"the mapping has no state dict under {key!r}; its keys are {_some_keys(state)}"
            )
        return _tensors_of(chosen, None)
    # `_extra_state` entries belong to their module alone and may be anything.
    weights = {k: v for k, v in state.items() if not k.endswith("_extra_state")}
    others = [k for k, v in weights.items() if not isinstance(v, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{len(others)} entries of the mapping are not tensors, the first is {others[0]!r} "
            f"({type(state[others[0]]).__name__}); pass the state dict itself, or key= for one of "
            f"{_some_keys(state)}"
        )
    return {k: v for k, v in weights.items() if isinstance(v, torch.Tensor)}


def _some_keys(state: Mapping[str, object]) -> str:
    keys = [repr(key) for key in state]
    return ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
