"""Prove that two networks compute the same with the planned weights, or say why not.

Read top to bottom: :mod:`~surgery.proof.verify` (models to prove), :mod:`~surgery.proof.sides`
(two models and a plan: which tensors of the checkpoint each takes),
:mod:`~surgery.proof.taking` (how, and which rows of them), :mod:`~surgery.proof.parts` (cut where
rows go to different places), :mod:`~surgery.networks.inputs` (what to show them),
:mod:`~surgery.proof.values` (random values for the mapping, the checkpoint's own for the weights),
:mod:`~surgery.proof.running` under :mod:`~surgery.proof.watching` and
:mod:`~surgery.proof.doubling` (one run, everything in float64, every call noted),
:mod:`~surgery.proof.compare`, :mod:`~surgery.proof.movements` (what moving one tensor does),
:mod:`~surgery.proof.settings` (hyper-parameters) and :mod:`~surgery.proof.proof`, the value. This
one alone needs no torch.
"""

from __future__ import annotations

from surgery.errors import ProofRefused
from surgery.proof.proof import Proof
from surgery.proof.sentences import proof_lines

__all__ = ["Proof", "refuse_unproven"]


def refuse_unproven(proof: Proof) -> None:
    """Raise :class:`~surgery.errors.ProofRefused` where the proof does not hold."""
    if proof.holds:
        return
    raise ProofRefused(
        f"the proof failed: {proof.verdict}; nothing was written",
        proof_lines(proof),
        proof.to_dict(),
    )
