"""Whatever is to have new weights, as a plan sees it: its names and shapes, and its own values."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

from surgery.errors import SurgeryError
from surgery.head_names import heads_by_name
from surgery.networks.architectures import find_architecture
from surgery.networks.blueprints import blueprint
from surgery.networks.unfilled import Blueprint
from surgery.specs import ModelSpec, TensorSpec, is_real, specs_in
from surgery.transfers.request import TransferRequest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.checkpoint.places import Place


def open_target(request: TransferRequest) -> Blueprint:
    """Raises :class:`~surgery.errors.SurgeryError` for what is no target, and
    :class:`~surgery.errors.ArchitectureError` for what cannot be built.
    """
    given = request.target
    if not isinstance(given, str) and (request.arguments or request.num_classes is not None):
        raise SurgeryError(
            "arguments (--arg) and num_classes (--num-classes) are for an architecture that is "
            "named; build the model with them"
        )
    if isinstance(given, str):
        drawn = blueprint(
            find_architecture(given),
            arguments=request.arguments,
            num_classes=request.num_classes,
            seed=request.seed,
        )
        return replace(drawn, spec=_in_dtype(drawn.spec, request.dtype))
    if is_module(given):
        from surgery.networks.describe import blueprint_of

        if request.dtype is not None:
            raise SurgeryError(
                "dtype is for new files; a live model keeps its own: convert it before "
                "(model.half())"
            )
        return blueprint_of(given)
    if isinstance(given, ModelSpec):
        spec = given
    elif (specs := specs_in(given)) is not None:
        spec = ModelSpec.from_tensors(specs)
    else:
        name = getattr(given, "__name__", type(given).__name__)
        raise SurgeryError(
            "the target is a torch.nn.Module, an architecture's name, a ModelSpec or TensorSpecs, "
            f"not {name}"
        )
    spec = _in_dtype(spec, request.dtype)
    return Blueprint("the target", spec, lambda: heads_by_name(spec.tensors, spec.ties), _no_values)


def is_module(value: object) -> TypeGuard[nn.Module]:
    """Whether a value is a module; where torch is not imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _in_dtype(spec: ModelSpec, dtype: str | None) -> ModelSpec:
    """The spec with all real floating tensors in ``dtype``."""
    if dtype is None:
        return spec

    def cast(tensor: TensorSpec) -> TensorSpec:
        return replace(tensor, dtype=dtype) if is_real(tensor.dtype) else tensor

    parameters = (replace(p, tensor=cast(p.tensor)) for p in spec.parameters)
    return replace(spec, tensors=tuple(map(cast, spec.tensors)), parameters=tuple(parameters))


def _no_values(names: Iterable[str]) -> Mapping[str, torch.Tensor | Place]:
    """Names and shapes alone have none: raises SurgeryError where some are wanted."""
    if missing := tuple(names):
        raise SurgeryError(
            f"{missing[0]} would keep its initial values, and only names and shapes of the "
            "target are known; plan for an architecture (timm:NAME) or a live model"
        )
    return {}
