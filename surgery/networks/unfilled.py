"""A network before it has values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.specs import ModelSpec

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.places import Place


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the state dict of a network is made of, and values on request.

    ``find_heads`` gives the paths of its heads, by names and shapes alone where there is no model;
    () where they cannot be known. ``versions`` are those of its modules, by path; ``extras`` the
    entries of its state dict that are no tensors. ``initial(names)`` gives the values of these
    tensors only: a tensor, or where it lies. ``find_order`` runs the model and gives its modules
    as they run (:mod:`surgery.networks.running_order`); () if not known.
    """

    spec: ModelSpec
    find_heads: Callable[[], tuple[str, ...]]
    versions: Mapping[str, int]
    extras: Mapping[str, Any]
    initial: Callable[[Iterable[str]], Mapping[str, torch.Tensor | Place]]
    find_order: Callable[[], tuple[str, ...]]
