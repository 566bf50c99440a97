"""An architecture -> its names, shapes and heads, and its initial values where they are read.

Nothing is ever downloaded: models are built with their own initial values. A library's model is
remembered, and the next time built only for its values. What is remembered never decides a value
unchecked: the model that is built for one has to be the one that was remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from surgery.errors import ArchitectureError
from surgery.head_names import heads_by_name
from surgery.json_values import fields, texts, whole_numbers
from surgery.networks.architectures import Architecture
from surgery.networks.origins import ORIGINS
from surgery.networks.origins.like import Like
from surgery.networks.origins.origin import Library
from surgery.networks.remembered import arguments_key, open_memory
from surgery.networks.unfilled import Blueprint
from surgery.specs import ModelSpec

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.places import Place


def blueprint(
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Blueprint:
    """Build the architecture, but none of the initial values that nobody reads.

    ``arguments`` go to its constructor; ``num_classes`` too where the constructor names it, else
    the head is replaced. 0 gives features. What a person's own code prints goes to stderr, and a
    module that is there already is copied. Initial values depend on the architecture and ``seed``
    alone. Raises :class:`~surgery.errors.ArchitectureError` for anything that cannot be built.
    """
    arguments = arguments or {}
    origin = ORIGINS[architecture.origin]
    if isinstance(origin, Like):
        if arguments or num_classes is not None:
            raise ArchitectureError(
                f"{architecture.label} has its names and shapes from a file; it takes no "
                "arguments and no number of classes"
            )
        return _of_file(origin, architecture)

    def build() -> Blueprint:
        from surgery.networks.building import build_deferred

        return build_deferred(architecture, arguments, num_classes, seed)

    if not isinstance(origin, Library):
        return build()
    spelled = arguments_key(origin.arguments(architecture.name, arguments))
    if spelled is None:
        return build()
    # A seed makes values only.
    key = ("signature", origin.name, architecture.name, spelled, num_classes)
    return _remembered_or_built(architecture, build, key)


def _of_file(origin: Like, architecture: Architecture) -> Blueprint:
    """What is not loaded keeps that checkpoint's values."""
    checkpoint = origin.opened(architecture.name)
    return Blueprint(
        architecture.label,
        ModelSpec.from_tensors(checkpoint.specs, ties=checkpoint.ties),
        partial(heads_by_name, checkpoint.specs, checkpoint.ties),
        initial=lambda names: {name: checkpoint.place(name) for name in names},
        versions=checkpoint.versions,
        architecture=architecture,
    )


def _remembered_or_built(
    architecture: Architecture, build: Callable[[], Blueprint], key: tuple[Any, ...]
) -> Blueprint:
    memory = open_memory()
    remembered = memory.recall(*key)
    try:
        spec, heads, versions = _read(remembered)
    except ValueError:
        memory.importing()
        built = build()
        # Entries that are no tensors may be anything; what JSON makes of them is another thing.
        if not built.extras:
            memory.keep(_written(built), *key)
        return built

    @cache
    def checked() -> Blueprint:
        memory.importing()
        built = build()
        if built.extras or _written(built) != remembered:
            memory.forget(*key)
            now = built.spec.by_name
            other = next((t for t in spec.tensors if now.get(t.name) != t), None)
            was = f" ({other.name} was {other.shape} {other.dtype})" if other else ""
            raise ArchitectureError(
                f"{architecture.label} is not the model that was remembered of it{was}; that is "
                "forgotten now, run this again"
            )
        return built

    def initial(names: Iterable[str]) -> Mapping[str, torch.Tensor | Place]:
        names = tuple(names)
        return checked().initial(names) if names else {}

    return Blueprint(
        architecture.label,
        spec,
        lambda: heads,
        initial,
        find_order=lambda: checked().find_order(),
        versions=versions,
        architecture=architecture,
    )


def _written(built: Blueprint) -> dict[str, Any]:
    """All that planning reads of a model, and no values, as JSON values."""
    return {
        "spec": built.spec.to_dict(),
        "heads": list(built.find_heads()),
        "versions": dict(built.versions),
    }


def _read(remembered: object) -> tuple[ModelSpec, tuple[str, ...], dict[str, int]]:
    """The inverse. Any other data raise ValueError."""
    spec, heads, versions = fields(remembered, "spec", "heads", "versions")
    return ModelSpec.from_dict(spec), texts(heads), whole_numbers(versions)
