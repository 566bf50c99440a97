"""Prove that two networks compute the same with the planned weights, or say why not.

Read top to bottom: :mod:`~surgery.proof.sides` (two models and a plan: which tensors of the
checkpoint each takes), :mod:`~surgery.proof.parts` (which rows of them go where),
:mod:`~surgery.networks.inputs` (what to show them), :mod:`~surgery.proof.values` (random values for
the mapping, the checkpoint's own for the weights), :mod:`~surgery.proof.running` under
:mod:`~surgery.proof.watching` and :mod:`~surgery.proof.doubling` (one run, everything in
float64, every call noted), :mod:`~surgery.proof.verify` (compare),
:mod:`~surgery.proof.settings` (hyper-parameters) and :mod:`~surgery.proof.proof`, the value.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import ProofRefused, SurgeryError
from surgery.proof.proof import Proof

if TYPE_CHECKING:
    from torch import nn

    from surgery.networks.architectures import Architecture
    from surgery.transfers.plan import TransferPlan
    from surgery.transfers.tofile import FileTransfer

__all__ = ["Proof", "prove_file_transfer", "refuse_unproven", "verify_transfer"]


def verify_transfer(
    source: nn.Module,
    target: nn.Module,
    plan: TransferPlan,
    *,
    shape: Iterable[int] | None = None,
    seed: int = 0,
) -> Proof:
    """Whether ``target`` computes what ``source`` does once ``plan`` has moved its weights.

    ``source`` holds the weights that the plan was made for; ``target``'s own values matter only
    where the plan leaves them. Both are copied, in float64 and eval mode, and stay as they are.
    ``shape`` is that of one example, without the batch; where it is None one that both take is
    looked for. Tables that a constructor rounds to float32 differ between implementations: build
    models that have them under ``torch.set_default_dtype(torch.float64)``.

    >>> plan = surgery.plan_transfer(old, new, renames="map.txt")
    >>> print(surgery.verify_transfer(old, new, plan))
    """
    from surgery.proof.sides import make_sides, own_values
    from surgery.proof.verify import prove

    models = (_doubled(_copied(source)), _doubled(_copied(target)))
    labels = ("the source", "the target")
    sides = make_sides(*models, plan, labels)
    held = {step.source.name: sides[0].live[name] for name, step in sides[0].steps.items()}
    return prove(*sides, own_values(sides, held), shape=tuple(shape) if shape else None, seed=seed)


def prove_file_transfer(
    job: FileTransfer,
    source: Architecture,
    *,
    source_arguments: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Proof:
    """The same for a transfer into a file: ``source`` is the architecture of the checkpoint.

    ``arguments`` and ``num_classes`` are those that the job's target was planned with. Raises
    :class:`~surgery.errors.ArchitectureError` for what cannot be built, and
    :class:`~surgery.errors.SurgeryError` where the checkpoint is not of that architecture or no
    input suits both networks.
    """
    from surgery.proof.sides import make_sides, own_values
    from surgery.proof.verify import prove

    models = (
        _built(source, source_arguments, None, seed),
        _built(job.architecture, arguments, num_classes, seed),
    )
    labels = (f"{source.label} (old)", f"{job.architecture.label} (new)")
    sides = make_sides(*models, job.plan, labels, job.source.ties, job.source.tensor)
    names = {spec.name for step in sides[1].steps.values() for spec in step.sources}
    held = {name: job.source.tensor(name) for name in names}
    return prove(*sides, own_values(sides, held), shape=shape, seed=seed)


def refuse_unproven(proof: Proof) -> None:
    """Raise :class:`~surgery.errors.ProofRefused` where the proof does not hold."""
    if proof.holds:
        return
    from surgery.report.proof import proof_lines

    raise ProofRefused(
        f"the proof failed: {proof.verdict}; nothing was written",
        proof_lines(proof),
        proof.to_dict(),
    )


def _built(
    architecture: Architecture,
    arguments: Mapping[str, Any] | None,
    num_classes: int | None,
    seed: int,
) -> nn.Module:
    import torch

    from surgery.networks.architectures import build
    from surgery.proof.doubling import in_float64

    with torch.random.fork_rng(devices=[]), in_float64():
        torch.manual_seed(seed)
        return _doubled(build(architecture, arguments=arguments, num_classes=num_classes))


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where a module holds what it computed last (torch.nn.utils.weight_norm):
    tensors with a graph cannot be copied.
    """
    import torch

    noted = (value for module in model.modules() for value in vars(module).values())
    computed = [v for v in noted if isinstance(v, torch.Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def _doubled(model: nn.Module) -> nn.Module:
    import torch

    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise SurgeryError("a scripted model cannot be followed; give the one it was made from")
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise SurgeryError("a model on the meta device cannot be run; give it memory first")
    return model.cpu().double().eval().requires_grad_(False)
