"""Whatever holds the old weights, behind one small face: specs, ties, and tensors on demand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard

from surgery.errors import CheckpointError, SurgeryError
from surgery.specs import SourceSpec, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.checkpoint.places import Place

    SourceLike: TypeAlias = "str | Path | Mapping[str, torch.Tensor] | nn.Module | Source"


class Source(Protocol):
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


def names_of(source: Source) -> SourceSpec:
    """What planning may know of a source."""
    others = tuple((name, "an entry that is no tensor") for name in source.not_tensors)
    return SourceSpec(tuple(source.specs), source.ties, (*source.unreadable, *others))


class Tensors:
    """A state dict in memory. The tensors are the caller's own and are only read."""

    def __init__(self, entries: Mapping[str, object]) -> None:
        from torch import Tensor

        from surgery.checkpoint.writing.values import tensor_problem

        tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
        problems = {name: tensor_problem(value) for name, value in tensors.items()}
        self.unreadable = tuple((name, problem) for name, problem in problems.items() if problem)
        self.not_tensors = tuple(name for name in entries if name not in tensors)
        self._tensors = {name: value for name, value in tensors.items() if not problems[name]}

    @cached_property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec.of(name, value) for name, value in self._tensors.items())

    @cached_property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Names that show the very same elements."""
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, value in self._tensors.items():
            if value.numel():
                place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
                groups.setdefault(place, []).append(name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    place = tensor


def open_source(source: SourceLike, key: str | None = None) -> Source:
    """A path, a state dict, a module or a checkpoint -> what a transfer reads.

    ``key`` chooses among several state dicts, in a file or in a mapping of mappings. Raises
    :class:`~surgery.errors.CheckpointError` for a file or a mapping that holds no state dict.
    """
    from torch import nn

    if isinstance(source, str | Path):
        from surgery.checkpoint import open_checkpoint

        return open_checkpoint(source, key=key)
    if isinstance(source, nn.Module):
        source = source.state_dict()
    if isinstance(source, Mapping):
        return Tensors(_state_dict_in(source, key))
    if not (hasattr(source, "specs") and hasattr(source, "tensor")):
        raise SurgeryError(
            f"a source is a path, a state dict, a module or a checkpoint, not a "
            f"{type(source).__name__}"
        )
    if key is not None:
        raise SurgeryError(f"key={key!r} chooses in a file or a mapping; this one is open already")
    return source


def _state_dict_in(entries: Mapping[str, object], key: str | None) -> Mapping[str, object]:
    """The mapping itself, or the one state dict in it, as ``torch.load`` may have returned it."""
    from surgery.checkpoint.finding import may_hold_weights

    if key is not None:
        chosen = entries.get(key)
        if not isinstance(chosen, Mapping):
            raise CheckpointError(f"no state dict is under {key!r}; {_what_is_there(entries)}")
        return _named(chosen)
    if _is_state_dict(entries) or not entries:
        return _named(entries)
    inside = [
        value
        for name, value in entries.items()
        if _is_state_dict(value) and may_hold_weights(str(name))
    ]
    if len(inside) != 1:
        raise CheckpointError(
            f"the mapping holds {len(inside) or 'no'} state dicts; {_what_is_there(entries)}"
        )
    return _named(inside[0])


def _is_state_dict(entries: object) -> TypeGuard[Mapping[str, object]]:
    """Tensors for the most part: some modules keep other things beside them."""
    from torch import Tensor

    if not isinstance(entries, Mapping):
        return False
    return 2 * sum(isinstance(value, Tensor) for value in entries.values()) > len(entries)


def _named(entries: Mapping[str, object]) -> Mapping[str, object]:
    for name in entries:
        if not isinstance(name, str):
            raise CheckpointError(f"names of tensors are text, and {name!r} is none")
    return entries


def _what_is_there(entries: Mapping[str, object]) -> str:
    keys = [f"{key!r} ({type(value).__name__})" for key, value in entries.items()]
    more = ", ..." if len(keys) > 8 else ""
    return f"pass one of {', '.join(keys[:8])}{more}, or its name as key="
