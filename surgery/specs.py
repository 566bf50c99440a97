"""The values that everything else speaks: what a tensor is called, and what a model is made of.

Nothing here holds a tensor. A :class:`ModelSpec` is all that planning a transfer or resolving
rules needs to know of a model, so both are pure, work from a file as well as from a live
module, and can be written down as JSON and read back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from surgery.collecting import collector_paused
from surgery.errors import CheckpointError
from surgery.json_values import fields, flag, items, text, texts, whole_number

#: Bits per element of the dtypes that checkpoints hold, by torch's name without ``torch.``.
DTYPE_BITS: Mapping[str, int] = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float4_e2m1fn_x2": 8,
    "int64": 64,
    "int32": 32,
    "int16": 16,
    "int8": 8,
    "uint64": 64,
    "uint32": 32,
    "uint16": 16,
    "uint8": 8,
    "bool": 8,
    "complex32": 32,
    "complex64": 64,
    "complex128": 128,
}


_FLOATING = ("float", "bfloat", "complex")


def is_floating(dtype: str) -> bool:
    """Whether values of the dtype are real or complex numbers rather than integers or flags."""
    return dtype.startswith(_FLOATING)


def is_real(dtype: str) -> bool:
    """Whether values of the dtype are real numbers, which can be computed with."""
    return is_floating(dtype) and not dtype.startswith("complex")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values: its name, its shape and its dtype (``"float32"``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, stored contiguously."""
        return (self.numel * DTYPE_BITS[self.dtype] + 7) // 8

    def to_row(self) -> list[Any]:
        """The spec as JSON values: name, shape, dtype."""
        return [self.name, list(self.shape), self.dtype]

    @classmethod
    def from_row(cls, row: object) -> TensorSpec:
        """The inverse of :meth:`to_row`. Any other data raise ValueError."""
        name, shape, dtype = items(row)
        if text(dtype) not in DTYPE_BITS:
            raise ValueError(f"{dtype!r} is no dtype of a checkpoint")
        return cls(text(name), tuple(map(whole_number, items(shape))), dtype)

    @classmethod
    def of(cls, name: str, values: Any) -> TensorSpec:
        """The spec of a tensor under the name it is to have; a dtype may be torch's or a text."""
        return cls(name, tuple(values.shape), str(values.dtype).removeprefix("torch."))

    @property
    def is_floating(self) -> bool:
        """Whether the values are real or complex numbers rather than integers or flags."""
        return is_floating(self.dtype)


def specs_in(value: object) -> tuple[TensorSpec, ...] | None:
    """The specs that a row of them holds; None for what is no such row, which is not read."""
    if isinstance(value, str | bytes) or hasattr(value, "read"):
        return None
    if not isinstance(value, Sequence | Set | Iterator | ValuesView):
        return None
    specs = tuple(value)
    return specs if all(isinstance(spec, TensorSpec) for spec in specs) else None


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A checkpoint without its values: specs, names of one tensor, entries that cannot be read."""

    specs: tuple[TensorSpec, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _refuse_doubled(self.specs, "source")


def _refuse_doubled(specs: Iterable[TensorSpec], side: str) -> None:
    counts = Counter(spec.name for spec in specs)
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise CheckpointError(f"the {side} has {doubled[0]!r} more than once")


def _by_field(spec: Any) -> dict[str, Any]:
    """``dataclasses.asdict`` copies deeply, at ten times the cost."""
    values = {name: getattr(spec, name) for name in spec.__slots__}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter of a model, under all its names.

    ``aliases`` are every name of the same parameter (tied weights), the one that
    ``named_parameters`` shows first. ``depth`` is the layer index that timm's group matcher
    gives it, 0 at the input; None where the model has no matcher.
    """

    tensor: TensorSpec
    aliases: tuple[str, ...]
    trainable: bool = True
    depth: int | None = None

    @property
    def name(self) -> str:
        return self.tensor.name

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal value."""
        return {**_by_field(self), "tensor": self.tensor.to_row()}

    @classmethod
    def from_dict(cls, data: object) -> ParameterSpec:
        """The inverse of :meth:`to_dict`. Any other data raise ValueError."""
        tensor, aliases, trainable, depth = fields(data, "tensor", "aliases", "trainable", "depth")
        return cls(
            TensorSpec.from_row(tensor),
            texts(aliases),
            flag(trainable),
            None if depth is None else whole_number(depth),
        )


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """One module: its dotted path (``""`` is the model), its class and bases by name, what it is.

    ``types`` runs from the class itself up to, not including, ``nn.Module``; it is empty where
    only a file's names are known. ``norm`` says that the module's own parameters scale and
    shift a normalisation; ``has_statistics`` that it keeps running statistics as well.
    ``shadowed`` says that someone set ``module.requires_grad``, which freezes nothing.
    """

    path: str
    types: tuple[str, ...]
    norm: bool = False
    has_statistics: bool = False
    shadowed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal value."""
        return _by_field(self)

    @classmethod
    def from_dict(cls, data: object) -> ModuleSpec:
        """The inverse of :meth:`to_dict`. Any other data raise ValueError."""
        path, types, *flags = fields(data, "path", "types", "norm", "has_statistics", "shadowed")
        return cls(text(path), texts(types), *map(flag, flags))


@dataclass(frozen=True)
class ModelSpec:
    """A model without its values.

    ``tensors`` are the state dict's, in its order, every alias of a tied parameter included;
    ``parameters`` are in the order of ``named_parameters``; ``modules`` in that of
    ``named_modules`` and only those that own parameters or buffers, or that are ``shadowed``;
    ``computed`` names the buffers that the constructor computes and no state dict holds;
    ``shared_buffers`` groups the names of one buffer, where it has more than one.
    """

    tensors: tuple[TensorSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    modules: tuple[ModuleSpec, ...] = ()
    computed: tuple[str, ...] = ()
    shared_buffers: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        """Tensor specs by state-dict name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def modules_by_path(self) -> Mapping[str, ModuleSpec]:
        """Modules by dotted path."""
        return {module.path: module for module in self.modules}

    @cached_property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """The state dict's names of one tensor, parameter or buffer, where it has several."""
        groups = (*(parameter.aliases for parameter in self.parameters), *self.shared_buffers)
        named = (tuple(name for name in names if name in self.by_name) for names in groups)
        return tuple(names for names in named if len(names) > 1)

    @property
    def knows_types(self) -> bool:
        """Whether module types are known; a plain file holds names and shapes alone."""
        return any(module.types for module in self.modules)

    def module_of(self, name: str) -> ModuleSpec | None:
        """The module that owns the tensor called ``name``."""
        return self.modules_by_path.get(name.rpartition(".")[0])

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal value."""
        return {
            "tensors": [tensor.to_row() for tensor in self.tensors],
            "parameters": [parameter.to_dict() for parameter in self.parameters],
            "modules": [module.to_dict() for module in self.modules],
            "computed": list(self.computed),
            "shared_buffers": [list(names) for names in self.shared_buffers],
        }

    @classmethod
    def from_dict(cls, data: object) -> ModelSpec:
        """The inverse of :meth:`to_dict`. Any other data raise ValueError."""
        tensors, parameters, modules, computed, shared_buffers = fields(
            data, "tensors", "parameters", "modules", "computed", "shared_buffers"
        )
        return cls(
            tensors=tuple(map(TensorSpec.from_row, items(tensors))),
            parameters=tuple(map(ParameterSpec.from_dict, items(parameters))),
            modules=tuple(map(ModuleSpec.from_dict, items(modules))),
            computed=texts(computed),
            shared_buffers=tuple(map(texts, items(shared_buffers))),
        )

    @classmethod
    @collector_paused()
    def from_tensors(
        cls, tensors: Iterable[TensorSpec], ties: Iterable[tuple[str, ...]] = ()
    ) -> ModelSpec:
        """What names and shapes alone tell, for a file that records nothing more.

        Integers and running statistics are buffers, everything else is a parameter; ``ties`` are
        names of one tensor. A module is a norm where it keeps running statistics or has a
        one-dimensional ``weight``. Raises CheckpointError for a name that is there twice.
        """
        tensors, ties = tuple(tensors), tuple(map(tuple, ties))
        _refuse_doubled(tensors, "model")
        aliases = {names[0]: names for names in ties}
        repeated = {name for names in aliases.values() for name in names[1:]}
        by_path: dict[str, dict[str, TensorSpec]] = {}
        for tensor in tensors:
            path, _, leaf = tensor.name.rpartition(".")
            by_path.setdefault(path, {})[leaf] = tensor
        parameters = tuple(
            ParameterSpec(tensor, aliases.get(tensor.name, (tensor.name,)))
            for tensor in tensors
            if tensor.is_floating
            and tensor.name not in repeated
            and tensor.name.rpartition(".")[2] not in _STATISTICS
        )
        names_of_parameters = {parameter.name for parameter in parameters}
        return cls(
            tensors=tensors,
            parameters=parameters,
            modules=tuple(_module_from_names(path, leaves) for path, leaves in by_path.items()),
            shared_buffers=tuple(names for names in ties if names[0] not in names_of_parameters),
        )


_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})


def _module_from_names(path: str, leaves: Mapping[str, TensorSpec]) -> ModuleSpec:
    has_statistics = "running_mean" in leaves and "running_var" in leaves
    weight = leaves.get("weight")
    norm = has_statistics or (weight is not None and len(weight.shape) == 1)
    return ModuleSpec(path, types=(), norm=norm, has_statistics=has_statistics)
