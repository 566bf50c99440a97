"""Two live networks, or a checkpoint and two architectures -> a proof."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from surgery.errors import SurgeryError
from surgery.networks.architectures import Architecture, find_architecture
from surgery.networks.building import build
from surgery.proof.compare import prove
from surgery.proof.proof import Proof
from surgery.proof.sides import make_sides
from surgery.proof.watching import Widen, in_float64
from surgery.transfers.plan import TransferPlan


def verify_transfer(
    source: nn.Module, target: nn.Module, plan: TransferPlan, *, shape: Iterable[int] | None = None
) -> Proof:
    """Whether ``target`` computes what ``source`` does once ``plan`` has moved its weights.

    ``source`` holds the weights that the plan was made for; ``target``'s own values matter only
    where the plan leaves them. Both are copied, in float64 and eval mode, and stay as they are.
    ``shape`` is that of one example, without the batch; where it is None one that both take is
    looked for. Tables that a constructor rounds to float32 differ between implementations: build
    models that have them under ``torch.set_default_dtype(torch.float64)``.

    >>> plan = surgery.plan_transfer(old, new, mapping="names.map")
    >>> print(surgery.verify_transfer(old, new, plan))
    """
    models = (_doubled(_copied(source)), _doubled(_copied(target)))
    sides = make_sides(*models, plan, ("the source", "the target"))
    return prove(sides, tuple(shape) if shape else None)


def prove_plan(plan: TransferPlan, *, shape: tuple[int, ...] | None = None) -> Proof:
    """The same for a plan between a checkpoint and an architecture, whose request names the
    architecture that the checkpoint was saved from (``source_arch``).

    Raises :class:`~surgery.errors.ArchitectureError` for what cannot be built, and
    :class:`~surgery.errors.SurgeryError` where the checkpoint is not of that architecture or no
    input suits both networks.
    """
    request, ends = plan.request, plan.ends
    if request.source_arch is None or ends.target.architecture is None:
        raise SurgeryError(
            "two networks are run: name the architecture that the source was saved from "
            "(source_arch, --source-arch), and plan for an architecture"
        )
    source, target = find_architecture(request.source_arch), ends.target.architecture
    models = (
        _built(source, request.source_arguments),
        _built(target, request.arguments, request.num_classes),
    )
    labels = (f"{source.label} (old)", f"{target.label} (new)")
    return prove(make_sides(*models, plan, labels, ends.readable), shape)


def _built(
    architecture: Architecture,
    arguments: Mapping[str, Any] | None,
    num_classes: int | None = None,
) -> nn.Module:
    with torch.random.fork_rng(devices=[]), in_float64(Widen()):
        torch.manual_seed(0)
        return _doubled(build(architecture, arguments=arguments, num_classes=num_classes))


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where a module holds what it computed last (torch.nn.utils.weight_norm):
    tensors with a graph cannot be copied.
    """
    noted = (value for module in model.modules() for value in vars(module).values())
    computed = [v for v in noted if isinstance(v, torch.Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def _doubled(model: nn.Module) -> nn.Module:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise SurgeryError("a scripted model cannot be followed; give the one it was made from")
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise SurgeryError("a model on the meta device cannot be run; give it memory first")
    return model.cpu().double().eval().requires_grad_(False)
