"""State dicts that are in memory: a module's, or what ``torch.load`` has returned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from surgery.checkpoint.contents.choosing import choose
from surgery.checkpoint.contents.finding import (
    EXTRA_STATE,
    find_state_dicts,
    module_versions,
    others,
)
from surgery.checkpoint.holding import tied
from surgery.checkpoint.tensors.arrays import with_tensors
from surgery.checkpoint.writing.draft import Draft
from surgery.errors import CheckpointError
from surgery.private_torch import is_wrapper, metadata_of
from surgery.specs import TensorSpec
from surgery.wording import printable


class Tensors:
    """A state dict in memory. The tensors are the caller's own and are only read.

    ``unreadable`` are tensors whose values cannot be copied as they are, each with the reason.
    """

    def __init__(self, entries: Mapping[str, object]) -> None:
        tensors = {k: value for k, value in entries.items() if isinstance(value, torch.Tensor)}
        problems = {name: tensor_problem(value) for name, value in tensors.items()}
        self.unreadable = tuple((name, problem) for name, problem in problems.items() if problem)
        self.not_tensors = tuple(name for name in entries if name not in tensors)
        self._tensors = {name: value for name, value in tensors.items() if not problems[name]}

    @cached_property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec.of(name, value) for name, value in self._tensors.items())

    @cached_property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Names that show the very same elements; an empty tensor is tied to nothing."""
        values = self._tensors.items()
        return tied((name, _identity(value)) for name, value in values if value.numel())

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    place = tensor


def hold(source: torch.nn.Module | Mapping[str, Any], key: str | None = None) -> Tensors:
    """A module, a state dict, or the one state dict in a mapping of other things too.

    Raises CheckpointError where there is none, or where several are and ``key`` names none.
    """
    if isinstance(source, torch.nn.Module):
        return Tensors(source.state_dict())
    source = with_tensors(source)
    found = find_state_dicts(source, key)
    states = {each.key: sum(map(torch.is_tensor, each.entries.values())) for each in found}
    chosen = choose("the mapping", states, dict(others(source, found)), key)
    entries = next(each.entries for each in found if each.key == chosen)
    if odd := [name for name in entries if not isinstance(name, str)]:
        raise CheckpointError(f"names of tensors are text, and {odd[0]!r} is none")
    return Tensors(entries)


def versions_of(state: Mapping[str, Any]) -> dict[str, int]:
    """The versions that modules note in a state dict, by path; none where a model makes its own.

    Without them torchvision's MNASNet and old BatchNorms refuse the files that are written.
    """
    return module_versions(metadata_of(state))


def tensor_problem(value: torch.Tensor) -> str | None:
    """What kind of tensor this is, where it is one whose values cannot be copied as they are."""
    if is_wrapper(value):
        return f"a {type(value).__name__}, a wrapper around other tensors"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a tensor of layout {str(value.layout).removeprefix('torch.')}"
    if value.is_quantized:
        return f"a quantised tensor ({str(value.dtype).removeprefix('torch.')})"
    if value.is_meta:
        return "a meta tensor, which has no values"
    return None


def _identity(value: torch.Tensor) -> tuple[object, ...]:
    """Equal for two names of one tensor."""
    return (
        value.device,
        value.data_ptr(),
        tuple(value.shape),
        value.stride(),
        value.dtype,
        value.is_conj(),
        value.is_neg(),
    )


def draft_of(
    source: torch.nn.Module | Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[Draft, list[str]]:
    """A model's state dict on its way into a file, and what cannot be written, in words.

    What a module keeps beside its tensors (``_extra_state``) comes along as it is.
    """
    state = source.state_dict() if isinstance(source, torch.nn.Module) else source
    if not isinstance(state, Mapping):
        found = type(state).__name__
        return Draft({}), [f"expected a module or a mapping of tensors, found {found}"]
    state = with_tensors(state)
    held = Tensors(state)
    extras = {n: state[n] for n in held.not_tensors if str(n).rpartition(".")[2] == EXTRA_STATE}
    odd = [name for name in held.not_tensors if name not in extras]
    problems = [
        *(
            f"{printable(name)}: expected text as its name, found {type(name).__name__}"
            for name in state
            if not isinstance(name, str)
        ),
        *(f"{printable(n)}: expected a tensor, found {type(state[n]).__name__}" for n in odd),
        *(f"{printable(name)}: {problem}" for name, problem in held.unreadable),
        *(
            f"metadata {printable(key)}: expected text"
            for key, text in metadata.items()
            if not (isinstance(key, str) and isinstance(text, str))
        ),
    ]
    tensors = {name: value for name, value in state.items() if name not in extras}
    return Draft(tensors, held.ties, versions_of(state), extras, dict(metadata)), problems
