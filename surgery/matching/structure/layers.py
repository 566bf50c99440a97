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
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names

Path = tuple[str, ...]
Shape = tuple[int, ...]
#: What two layers must share to be one: the shapes, by role, ones dropped.
Signature = tuple[tuple[str, Shape], ...]


_PICTURE_CHANNELS = 4
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
    stored (in, out), as GPT-2's Conv1D does; None where its shape does not tell. ``packed`` says
    that half of its rows seem to gate the other half.
    """

    path: Path
    leaves: tuple[Leaf, ...]
    transposed: bool | None = False
    flat: bool = False
    packed: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def stands_alone(self) -> bool:
        """Whether it is a parameter under its own name, which implementations keep anywhere."""
        if len(self.leaves) > 1:
            return False
        return self.leaves[0].spec.name.rpartition(".")[2] == (self.path or ("",))[-1]

    def of_role(self, role: str) -> list[Leaf]:
        return [leaf for leaf in self.leaves if leaf.role == role]

    @cached_property
    def signature(self) -> Signature:
        leaves = tuple([(leaf.role, leaf.spec.shape, leaf.part) for leaf in self.leaves])
        return _signature(leaves, bool(self.transposed), self.flat)

    @property
    def is_matrix(self) -> bool:
        """Whether it has inputs and outputs, rather than one value a channel."""
        return any(len(shape) > 1 for _, shape in self.signature)

    @property
    def channels(self) -> tuple[int, int] | None:
        """(outputs, inputs) where the shape says so: of a matrix, or of a convolution over a
        picture. A wider convolution may run in groups.
        """
        shape = dict(self.signature).get("weight", ())
        if len(shape) == 2 or (len(shape) == 4 and shape[1] <= _PICTURE_CHANNELS):
            return shape[0], shape[1]
        return None

    @property
    def kernels(self) -> Shape:
        """(outputs, height, width) of a convolution over pictures; ``()`` for other layers."""
        shapes = [leaf.spec.shape for leaf in self.of_role("weight")]
        if len(shapes) != 1 or len(shapes[0]) != 4 or max(shapes[0][2:]) == 1:
            return ()
        return (shapes[0][0], *shapes[0][2:])


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
        shapes = [tuple(reversed(shape)) for shape in shapes]
    if role == "weight" and flat:
        shapes = [(s[0], math.prod(shape) // s[0]) for s, shape in zip(shapes, whole, strict=True)]
    if role == "bias" and any(part for own, _, part in leaves if own == role):
        # A bias for q and v alone is a whole one whose k third is zero.
        return (sum(_outputs("weight", s, transposed) for own, s, _ in leaves if own == "weight"),)
    if len(shapes) == 1:
        return shapes[0]
    inputs = dict.fromkeys(shape[1:] for shape in shapes)
    return (
        sum((*shape, 1)[0] for shape in shapes),
        *(size for shape in inputs for size in shape),
    )


def rows_of(leaf: Leaf, transposed: bool) -> int:
    """Outputs of a leaf: its first axis, or its last where it is stored (in, out)."""
    return _outputs(leaf.role, leaf.spec.shape, transposed)


def _outputs(role: str, shape: Shape, transposed: bool) -> int:
    return shape[1] if transposed and role == "weight" and len(shape) == 2 else shape[0]


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
    return [Layer(path, tuple(found)) for path, found in layers.items() if _has_values(found)]


def _has_values(leaves: Sequence[Leaf]) -> bool:
    return all(leaf.spec.numel for leaf in leaves) and any(
        leaf.role != "batches" for leaf in leaves
    )


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
    told = {layer.path: _told(layer, types.get(layer.name, ())) for layer in layers}
    if not any(told.values()):
        return list(layers)
    below: dict[Path, set[bool]] = defaultdict(set)
    for path, transposed in told.items():
        if transposed is not None:
            for depth in range(len(path)):
                below[path[:depth]].add(transposed)
    return [replace(layer, transposed=_orientation(layer, told, below)) for layer in layers]


def _matrix(layer: Layer) -> tuple[TensorSpec, TensorSpec] | None:
    weights, biases = layer.of_role("weight"), layer.of_role("bias")
    if len(weights) == len(biases) == 1 and len(weights[0].spec.shape) == 2:
        return weights[0].spec, biases[0].spec
    return None


def _told(layer: Layer, types: tuple[str, ...]) -> bool | None:
    if (matrix := _matrix(layer)) is None:
        unbiased = len(layer.leaves) == 1 and len(layer.leaves[0].spec.shape) == 2
        return True if unbiased and "Conv1D" in types else None
    if types:
        return "Conv1D" in types
    (rows, columns), bias = matrix[0].shape, matrix[1].shape
    if rows == columns or bias not in ((rows,), (columns,)):
        return None
    return bias == (columns,)


def _orientation(
    layer: Layer, told: Mapping[Path, bool | None], below: Mapping[Path, set[bool]]
) -> bool | None:
    own = told[layer.path]
    if own is not None or _matrix(layer) is None:
        return bool(own)
    for depth in range(len(layer.path) - 1, -1, -1):
        if kinds := below.get(layer.path[:depth]):
            # What blocks keep as (in, out) says nothing of a head outside of them.
            return None if len(kinds) > 1 or (depth == 0 and True in kinds) else True in kinds
    return False
