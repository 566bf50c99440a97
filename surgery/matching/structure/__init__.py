"""Two implementations of one network: which tensor of a checkpoint feeds which of the model.

Read from the outside in: :mod:`~surgery.matching.structure.layers` and
:mod:`~surgery.matching.structure.fused` (tensors to layers that both sides can have),
:mod:`~surgery.matching.structure.scopes` and :mod:`~surgery.matching.structure.pairing` (layers to
pairs, module by module), :mod:`~surgery.matching.structure.evidence`,
:mod:`~surgery.matching.structure.words` and :mod:`~surgery.matching.structure.numbers` (what
distinguishes layers of one shape), :mod:`~surgery.matching.structure.hints` (what a person says),
:mod:`~surgery.matching.structure.rows` and :mod:`~surgery.matching.structure.steps` (pairs to
recipes, where the order of rows is known), :mod:`~surgery.matching.structure.resized` (what is left
over in another size) and :mod:`~surgery.matching.structure.match` (all of it).
"""

from surgery.matching.structure.match import StructureMatch, match_structure
from surgery.matching.structure.resized import Resized
from surgery.matching.structure.steps import StructureStep

__all__ = [
    "Resized",
    "StructureMatch",
    "StructureStep",
    "match_structure",
]
