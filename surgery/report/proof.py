"""Whether two networks compute the same, and what speaks against it."""

from __future__ import annotations

from surgery.proof.proof import Proof
from surgery.proof.sentences import compared_text, proof_lines
from surgery.report.tables import Report


def proof_report(proof: Proof) -> Report:
    """The verdict, what was compared and how near it came, then what speaks against it."""
    return Report([proof.verdict, compared_text(proof)], notes=[*proof_lines(proof)])
