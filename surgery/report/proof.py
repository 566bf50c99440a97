"""Whether two networks compute the same, and what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.proof.proof import Proof
from surgery.proof.sentences import compared_text, proof_lines
from surgery.report import report_of
from surgery.report.tables import Report


@report_of.register(Proof)
def proof_report(proof: Proof, *, heading: Sequence[str] = ()) -> Report:
    """The verdict, what was compared and how near it came, then what speaks against it."""
    headline = (*heading, proof.verdict, compared_text(proof))
    return Report(headline, notes=tuple(proof_lines(proof)))
