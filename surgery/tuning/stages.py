"""How deep a parameter lies, where the model itself does not say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from surgery.specs import ModelSpec, TensorSpec
from surgery.wrappers import unwrap_names

_STAGE = re.compile(r"(.*_)?\d+|.*embed.*", re.IGNORECASE)


def layer_depths(spec: ModelSpec) -> Mapping[str, int]:
    """Parameter name to depth, 0 at the input: timm's matcher where it distinguishes layers.

    A matcher that puts everything into one layer (it was written for other names) says
    nothing; the order of the stages does then, see :func:`stage_depths`.
    """
    if knows_depths(spec):
        known = {p.name: p.depth for p in spec.parameters if p.depth is not None}
        deepest = max(known.values())
        # timm trains what its matcher leaves out like the head.
        return {p.name: known.get(p.name, deepest) for p in spec.parameters}
    return stage_depths([parameter.tensor for parameter in spec.parameters])


def knows_depths(spec: ModelSpec) -> bool:
    """Whether the model's own matcher distinguishes layers."""
    return len({p.depth for p in spec.parameters if p.depth is not None}) > 1


def stage_depths(tensors: Sequence[TensorSpec]) -> dict[str, int]:
    """Depth by the order of stages: neighbours with one :func:`stage_key` are a stage.

    Two kinds of neighbours are no stage of their own and join the one before, or the first:
    scales and shifts alone (at most one dimension, so a stem's bn1 stays with conv1), and
    parameters of a module that holds other stages (a class token at the root).

    >>> stage_depths([TensorSpec(name, shape, "float32") for name, shape in
    ...     [("conv1.weight", (8, 3, 3, 3)), ("bn1.weight", (8,)), ("layer1.0.conv.weight", (8, 8)),
    ...      ("layer1.1.conv.weight", (8, 8)), ("fc.weight", (10, 8)), ("fc.bias", (10,))]])
    {'conv1.weight': 0, 'bn1.weight': 0, 'layer1.0.conv.weight': 1,
     'layer1.1.conv.weight': 2, 'fc.weight': 3, 'fc.bias': 3}
    """
    names = unwrap_names(tensor.name for tensor in tensors)
    keys = {tensor.name: stage_key(names[tensor.name]) for tensor in tensors}
    above = {key[:at] for key in set(keys.values()) for at, dot in enumerate(key) if dot == "."}
    holders = {"", *above}
    depths: dict[str, int] = {}
    deepest = -1
    for key, stage in groupby(tensors, key=lambda tensor: keys[tensor.name]):
        members = tuple(stage)
        if key not in holders and any(len(tensor.shape) > 1 for tensor in members):
            deepest += 1
        depths.update((tensor.name, max(deepest, 0)) for tensor in members)
    return depths


def stage_key(name: str) -> str:
    """The path of the stage that a parameter name belongs to, ``""`` at the root.

    Up to the first segment that is a number or ends in ``_`` and one (``layer1.0``,
    ``features.5``, ``encoder.layers.encoder_layer_0``) or that is about embeddings (which are
    one stage however many tables they have, as in BEiT), else the first two.
    """
    path = name.split(".")[:-1]
    for index, segment in enumerate(path):
        if _STAGE.fullmatch(segment):
            return ".".join(path[: index + 1])
    return ".".join(path[:2])
