"""Prove that two networks compute the same with the planned weights, or say why not.

Read top to bottom: :mod:`~surgery.proof.verify` (models to prove), :mod:`~surgery.proof.sides`
(two models and a plan: which tensors of the checkpoint each takes), :mod:`~surgery.proof.parts`
(which rows of them), :mod:`~surgery.networks.inputs` (what to show them),
:mod:`~surgery.proof.values` (random values for the mapping, the checkpoint's own for the weights),
:mod:`~surgery.proof.running` under :mod:`~surgery.proof.watching` (one run, everything in float64,
every call noted), :mod:`~surgery.proof.movements` (both networks on one set of values, and what
moving one tensor does), :mod:`~surgery.proof.settings` (hyper-parameters),
:mod:`~surgery.proof.compare` and :mod:`~surgery.proof.proof`, the value. This one alone needs no
torch.
"""

from __future__ import annotations

from surgery.errors import ProofRefused
from surgery.proof.proof import Proof

__all__ = ["Proof", "refuse_unproven"]


def refuse_unproven(proof: Proof) -> None:
    """Raise :class:`~surgery.errors.ProofRefused`, with the report, where it does not hold."""
    if not proof.holds:
        _, *details = filter(None, str(proof).splitlines())
        message = f"the proof failed: {proof.verdict}; nothing was written"
        raise ProofRefused(message, details, proof.to_dict())
