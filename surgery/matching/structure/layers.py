"""Tensors -> layers: what one module owns, under roles and shapes that implementations share.

A layer is the weight, bias and statistics of one convolution, norm, embedding or projection;
q, k and v of one attention are one layer, fused or split. A parameter that stands alone
(``cls_token``, a layer scale) is a layer of one tensor.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from surgery.errors import SurgeryError
from surgery.matching.structure.words import concepts
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names

Path = tuple[str, ...]
Shape = tuple[int, ...]
#: What two layers must share to be one: the shapes, by role, ones dropped.
Signature = tuple[tuple[str, Shape], ...]


#: Python cannot walk modules that are nested deeper, and every part of a path is held.
_DEEPEST = 1000


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of a layer. ``part`` says which of q, k and v it makes, in the order of its
    rows; empty where the layer is no attention projection, or where that order is unknown.
    ``groups`` is how often the parts follow each other, 1 for blocks, where a hint says so; 0
    where the name alone tells, which then means blocks.
    """

    role: str
    spec: TensorSpec
    part: str = ""
    groups: int = 0


@dataclass(frozen=True)
class Layer:
    """Tensors that go together. ``path`` is unwrapped; ``transposed`` says that the weight is
    stored (in, out), as GPT-2's Conv1D does; None where its shape does not tell. ``flat`` says
    that a weight counts as a linear one, ``without_bias`` that a bias does not count, as the other
    side has none; ``packed`` how many things its rows may make, in an order of their own: 3 are
    q, k and v, and other numbers gates.
    """

    path: Path
    leaves: tuple[Leaf, ...]
    transposed: bool | None = False
    flat: bool = False
    without_bias: bool = False
    packed: int = 0

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def bare(self) -> bool:
        """Whether it is a matrix of two axes under its own name, with no module that says how it
        is stored.
        """
        spec = self.leaves[0].spec
        own = spec.name.rpartition(".")[2] == (self.path or ("",))[-1]
        return len(self.leaves) == 1 and own and len(spec.shape) == 2 and not _is_table(self.path)

    def of_role(self, role: str) -> list[Leaf]:
        return [leaf for leaf in self.leaves if leaf.role == role]

    @cached_property
    def signature(self) -> Signature:
        leaves = tuple(
            (leaf.role, leaf.spec.shape, leaf.part)
            for leaf in self.leaves
            if not (self.without_bias and leaf.role == "bias")
        )
        return _signature(leaves, bool(self.transposed), self.flat)

    @property
    def weight_shape(self) -> Shape:
        return next((shape for role, shape in self.signature if role == "weight"), ())

    @property
    def bare_shape(self) -> Shape:
        """The shape of a matrix without a bias; nothing tells by itself how it is stored."""
        shape = self.leaves[0].spec.shape if len(self.leaves) == 1 else ()
        return shape if len(shape) == 2 and not self.transposed else ()

    @property
    def is_matrix(self) -> bool:
        """Whether it has inputs and outputs, rather than one value a channel."""
        return any(len(shape) > 1 for _, shape in self.signature)


@lru_cache(maxsize=4096)
def _signature(
    leaves: tuple[tuple[str, Shape, str], ...], transposed: bool, flat: bool
) -> Signature:
    """Of (role, shape, part) of the leaves; blocks that are repeated have it once."""
    roles = sorted({role for role, *_ in leaves} - {"batches"})
    return tuple((role, _shape(role, leaves, transposed, flat)) for role in roles)


def _shape(
    role: str, leaves: Sequence[tuple[str, Shape, str]], transposed: bool, flat: bool
) -> Shape:
    whole = [shape for own, shape, _ in leaves if own == role]
    shapes = [squeezed(shape) for shape in whole]
    if role == "weight" and transposed:
        shapes = [shape[::-1] for shape in shapes]
    if role == "weight" and flat:
        shapes = [(s[0], math.prod(shape) // s[0]) for s, shape in zip(shapes, whole, strict=True)]
    if role == "bias" and any(part for own, _, part in leaves if own == role):
        # A bias for q and v alone is a whole one whose k third is zero.
        return _shape("weight", leaves, transposed, flat)[:1]
    if len(shapes) == 1:
        return shapes[0]
    inputs = dict.fromkeys(shape[1:] for shape in shapes)
    return (sum((*shape, 1)[0] for shape in shapes), *(size for x in inputs for size in x))


def rows_of(leaf: Leaf, transposed: bool) -> int:
    """Outputs of a leaf: its first axis, or its last where it is stored (in, out)."""
    shape = leaf.spec.shape
    return shape[1] if transposed and leaf.role == "weight" and len(shape) == 2 else shape[0]


def squeezed(shape: Shape) -> Shape:
    """(C, 1, 1) is (C,): a convolution of one pixel is a linear layer."""
    return tuple(size for size in shape if size != 1)


_ROLES = {
    "weight": "weight",
    "kernel": "weight",
    "bias": "bias",
    "running_mean": "mean",
    "moving_mean": "mean",
    "running_var": "var",
    "moving_var": "var",
    "moving_variance": "var",
    "num_batches_tracked": "batches",
}
#: Norms of other frameworks; each counts only beside its partner, since a layer scale is called
#: gamma too.
_PARTNERS = {"gamma": ("beta", "weight"), "beta": ("gamma", "bias"), "scale": ("bias", "weight")}
_WEIGHT_NORM = {"weight_g": "g", "weight_v": "v", "original0": "g", "original1": "v"}


def layers_of(specs: Iterable[TensorSpec]) -> list[Layer]:
    """The floating-point tensors as layers, in the order of their names.

    Integers are indexes and flags, which a constructor computes; only a norm's counter of
    batches goes along with its norm. Raises :class:`~surgery.errors.SurgeryError` for names that
    no module can have.
    """
    specs = [s for s in specs if s.is_floating or s.name.endswith("num_batches_tracked")]
    clean = unwrap_names(spec.name for spec in specs)
    siblings: dict[Path, dict[str, TensorSpec]] = defaultdict(dict)
    for spec in specs:
        *above, leaf = clean[spec.name].split(".")
        if len(above) > _DEEPEST:
            raise SurgeryError(
                f"a name of {len(above) + 1:,} segments, {spec.name[:40]!r}...: modules are nested "
                f"{_DEEPEST:,} deep at most"
            )
        siblings[tuple(above)][leaf] = spec
    layers: dict[Path, list[Leaf]] = defaultdict(list)
    for path, leaves in siblings.items():
        for leaf, spec in sorted(leaves.items(), key=lambda item: (item[0] != "weight", item[0])):
            owner, role = _role(path, leaf, leaves)
            layers[owner].append(Leaf(role, spec))
    return [
        Layer(path, tuple(found))
        for path, found in layers.items()
        if all(leaf.spec.numel for leaf in found) and {leaf.role for leaf in found} != {"batches"}
    ]


def _role(path: Path, leaf: str, leaves: Mapping[str, TensorSpec]) -> tuple[Path, str]:
    """The path of the layer that a leaf belongs to, and its role in it."""
    if path[-2:] == ("parametrizations", "weight") and leaf in _WEIGHT_NORM:
        return path[:-2], _WEIGHT_NORM[leaf]
    if {"weight_g", "weight_v"} <= leaves.keys() and leaf in _WEIGHT_NORM:
        return path, _WEIGHT_NORM[leaf]
    if leaf in _ROLES:
        last = _ROLES[leaf] == "weight" and _inputs_last(leaves[leaf].shape)
        return path, "kernel (h, w, in, out)" if last else _ROLES[leaf]
    partner, role = _PARTNERS.get(leaf, ("", ""))
    if partner in leaves:
        return path, role
    return _compound(path, leaf, leaves)


#: torch.nn.MultiheadAttention over keys and values of other widths: three weights, one bias.
_SEPARATE = frozenset({"q_proj", "k_proj", "v_proj", "in_proj"})
_SEPARATE_WEIGHTS = {"q_proj_weight", "k_proj_weight", "v_proj_weight"}


def _inputs_last(shape: Shape) -> bool:
    """Whether a convolution of other frameworks keeps its pixels first: (3, 3, in, out), where
    torch has (out, in, 3, 3). They are left alone, since depthwise ones are written in two ways.
    """
    if len(shape) != 4 or shape[0] != shape[1] or shape.count(1) > 2:
        return False
    return shape[2:] != (1, 1) and (shape[0] == 1 or shape[2] != shape[3])


def _compound(path: Path, leaf: str, leaves: Mapping[str, TensorSpec]) -> tuple[Path, str]:
    """``in_proj_weight`` is the weight of ``in_proj``, ``bias_hh_l0`` the bias of ``hh_l0``."""
    separate = _SEPARATE if leaves.keys() >= _SEPARATE_WEIGHTS else frozenset()
    for role, other in (("weight", "bias"), ("bias", "weight")):
        for stem, partner in (
            (leaf.removesuffix(f"_{role}"), "{}_" + other),
            (leaf.removeprefix(f"{role}_"), other + "_{}"),
        ):
            lone = stem in ({"q", "k", "v"} if role == "bias" else ()) or stem in separate
            if stem not in (leaf, "") and (partner.format(stem) in leaves or lone):
                return (*path, stem), role
    return (*path, leaf), "weight"


def with_orientation(layers: Sequence[Layer], types: Mapping[str, tuple[str, ...]]) -> list[Layer]:
    """Say which weights are stored (in, out).

    A bias is as long as the layer has outputs, so a weight that is not square tells by itself.
    A square one goes by its module's class, or by the nearest ancestor whose telling layers
    all agree; where they do not agree it stays unknown. Without a bias the class alone tells.
    ``types`` are class names by path.
    """
    square = (x.bare and len({*x.leaves[0].spec.shape}) == 1 for x in layers)
    layers = [replace(x, transposed=None) if s else x for x, s in zip(layers, square, strict=True)]
    stored = {layer.path: _stored(layer, types.get(layer.name, ())) for layer in layers}
    if not any(stored.values()):
        return list(layers)
    below: dict[Path, set[bool]] = defaultdict(set)
    for path, transposed in stored.items():
        if transposed is not None:
            for depth in range(len(path)):
                below[path[:depth]].add(transposed)
    return [replace(layer, transposed=_orientation(layer, stored, below)) for layer in layers]


def _stored(layer: Layer, types: tuple[str, ...]) -> bool | None:
    """What the class of a layer, or the length of its bias, tells."""
    weights, biases = layer.of_role("weight"), layer.of_role("bias")
    if len(weights) != 1 or len(weights[0].spec.shape) != 2 or len(biases) > 1:
        return None
    if types and (biases or "Conv1D" in types):
        return "Conv1D" in types
    if not biases:
        return None
    (rows, columns), bias = weights[0].spec.shape, biases[0].spec.shape
    if rows == columns or bias not in ((rows,), (columns,)):
        return None
    return bias == (columns,)


def _is_table(path: Path) -> bool:
    """Whether rows are looked up rather than multiplied with."""
    spoken = frozenset().union(*map(concepts, path))
    return not spoken.isdisjoint(("embed", "position", "relative", "class", "dist", "register"))


def _orientation(
    layer: Layer, stored: Mapping[Path, bool | None], below: Mapping[Path, set[bool]]
) -> bool | None:
    own, weights = stored[layer.path], layer.of_role("weight")
    if own is not None:
        return own
    if len(weights) != 1 or len(weights[0].spec.shape) != 2 or not layer.of_role("bias"):
        return layer.transposed
    for depth in range(len(layer.path) - 1, -1, -1):
        if kinds := below.get(layer.path[:depth]):
            # What blocks keep as (in, out) says nothing of a head outside of them.
            return None if len(kinds) > 1 or (depth == 0 and True in kinds) else True in kinds
    return False
