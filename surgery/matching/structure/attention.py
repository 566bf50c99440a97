"""q, k and v of one attention -> one layer, whether they are fused, split, or half of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from surgery.matching.structure.hints import Hints, LayoutHint
from surgery.matching.structure.layers import Layer, Leaf, Path, rows_of
from surgery.matching.structure.words import attention_part

NO_HINTS = Hints()


def bias_alone(layers: Sequence[Layer]) -> bool:
    """Whether an attention has one bias for q, k and v, and weights that are not one: those of
    torch.nn.MultiheadAttention over keys and values of other widths.
    """
    return any(
        layer.path
        and (attention_part(layer.path[-1]) or ("",))[0] == "qkv"
        and not layer.of_role("weight")
        for layer in layers
    )


def join_attention(
    layers: Sequence[Layer], hints: Hints = NO_HINTS, *, widths: bool = False
) -> list[Layer]:
    """Join sibling projections that make q, k and v of one attention; others stay as they are.
    ``hints`` may say how the rows of fused ones lie; ``widths`` says that they may have inputs of
    several widths.

    The joined layer stands at the projections' parent, under ``qkv``. Its signature is that of
    the fused projection, so that either form finds the other.
    """
    families: dict[tuple[Path, str], list[tuple[str, Layer]]] = defaultdict(list)
    for layer in layers:
        found = attention_part(layer.path[-1]) if layer.path else None
        layout = hints.layout(layer.path)
        if layout and _is_projection(layer):
            hints.use(layout)
            layer = _laid_out(layer, layout)
            found = layout.parts, found[1] if found else ""
        if found and _is_projection(layer):
            part, stem = found
            families[layer.path[:-1], stem if len(part) < 3 else ""].append((part, layer))
    joined: dict[Path, Layer] = {}
    for (parent, stem), members in families.items():
        if stem and _lone_biases(families.get((parent, ""), ())):
            members = [*members, *families[parent, ""]]
        if whole := _join(parent, stem, members, widths):
            joined |= {member.path: whole for _, member in members}
    return list({id(layer): layer for layer in (joined.get(x.path, x) for x in layers)}.values())


def _laid_out(layer: Layer, layout: LayoutHint) -> Layer:
    return replace(layer, leaves=tuple(replace(x, groups=layout.groups) for x in layer.leaves))


def _is_projection(layer: Layer) -> bool:
    """A matrix with or without its bias, or the lone bias of one."""
    weights, biases = layer.of_role("weight"), layer.of_role("bias")
    if len(weights) + len(biases) != len(layer.leaves):
        return False
    if not weights:
        return bool(biases)
    return sum(size > 1 for size in weights[0].spec.shape) == 2


def _lone_biases(members: Sequence[tuple[str, Layer]]) -> bool:
    return bool(members) and not any(layer.of_role("weight") for _, layer in members)


def _join(
    parent: Path, stem: str, members: Sequence[tuple[str, Layer]], widths: bool
) -> Layer | None:
    leaves = [
        replace(leaf, part=part)
        for part, layer in sorted(members, key=lambda member: "qkv".find(member[0][0]))
        for leaf in layer.leaves
    ]
    weights = [leaf for leaf in leaves if leaf.role == "weight"]
    biases = [leaf for leaf in leaves if leaf.role == "bias"]
    flags = {layer.transposed for _, layer in members if layer.of_role("weight")}
    if not _complete(weights) or len(flags) != 1 or not _fits(weights, biases, flags, widths):
        return None
    segment = members[0][1].path[-1] if len(members) == 1 else "_".join(filter(None, (stem, "qkv")))
    return Layer((*parent, segment), tuple(leaves), flags.pop())


def _complete(weights: Sequence[Leaf]) -> bool:
    """Each of q, k and v exactly once; the fused order may be any, as long as it is named."""
    return sorted("".join(leaf.part for leaf in weights)) == ["k", "q", "v"]


def _fits(
    weights: Sequence[Leaf], biases: Sequence[Leaf], flags: set[bool | None], widths: bool
) -> bool:
    transposed = True in flags
    inputs = {leaf.spec.numel // rows_of(leaf, transposed) for leaf in weights}
    parts = "".join(leaf.part for leaf in biases)
    rows = rows_of(weights[0], transposed)
    told = any(leaf.groups for leaf in weights)
    blocks = (
        told
        or len(weights) > 1
        or (rows == 3 * max(inputs) if len(weights[0].spec.shape) > 2 else rows % 3 == 0)
    )
    alike = len(inputs) == 1 or (widths and len(weights) == 3)
    return blocks and alike and len(parts) == len(set(parts))
