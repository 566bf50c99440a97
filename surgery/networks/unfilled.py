"""A network before it has values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.networks.architectures import Architecture
from surgery.specs import ModelSpec

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.places import Place


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the state dict of a network is made of, and values on request.

    ``label`` is what a record calls it. ``find_heads`` gives the paths of its heads, by names and
    shapes alone where there is no model; () where they cannot be known. ``initial(names)`` gives
    the values of these tensors only: a tensor, or where it lies. ``find_order`` runs the model and
    gives its modules as they run (:mod:`surgery.networks.running_order`); () if not known.
    ``versions`` are those of its modules, by path; ``extras`` the entries of its state dict that
    are no tensors. ``architecture`` is None where none was named.
    """

    label: str
    spec: ModelSpec
    find_heads: Callable[[], tuple[str, ...]]
    initial: Callable[[Iterable[str]], Mapping[str, torch.Tensor | Place]]
    find_order: Callable[[], tuple[str, ...]] = tuple
    versions: Mapping[str, int] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    architecture: Architecture | None = None
