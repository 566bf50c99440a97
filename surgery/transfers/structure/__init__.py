"""Two implementations of one network: which tensor of a checkpoint feeds which of the model.

Read from the outside in: :mod:`~surgery.transfers.structure.layers` and
:mod:`~surgery.transfers.structure.attention` (tensors to layers that both sides can have),
:mod:`~surgery.transfers.structure.columns` and :mod:`~surgery.transfers.structure.pairing`
(layers to pairs, module by module), :mod:`~surgery.transfers.structure.evidence` and
:mod:`~surgery.transfers.structure.words` (what tells layers of one shape apart),
:mod:`~surgery.transfers.structure.steps` (pairs to operations) and
:mod:`~surgery.transfers.structure.match` (all of it).
"""

from surgery.transfers.structure.match import StructureMatch, match_structure
from surgery.transfers.structure.resized import Resized
from surgery.transfers.structure.steps import StructureStep

__all__ = [
    "Resized",
    "StructureMatch",
    "StructureStep",
    "match_structure",
]
