"""What the input did not reach: rows of tables that it did not look up, and what is left over."""

from __future__ import annotations

import torch

from surgery.matching.code.origins import OPEN
from surgery.matching.code.program import Parameter, Program
from surgery.matching.code.unify import Unification

#: Of more tensors than this nothing is decided by what is left.
_MOST_LEFT = 2


def complete(found: Unification) -> dict[str, str]:
    """Fill in what follows, by target name, and say from what.

    Rows of a table that the input does not reach follow those that it does, where these are one
    table's in their own order. A tensor that is the only one of its shape that has no counterpart
    on either side is taken for the other; the proof shows whether it is.
    """
    followed = {}
    origins = found.origins
    for parameter in found.target.program.parameters:
        here = slice(parameter.first, parameter.first + parameter.numel)
        known = origins.of[here] >= 0
        if not known.any() or known.all():
            continue
        offsets = (origins.of[here] - torch.arange(parameter.numel))[known].unique()  # type: ignore[no-untyped-call]
        table = [
            x
            for x in found.source.program.parameters
            if len(offsets) == 1 and x.first == int(offsets) and x.shape == parameter.shape
        ]
        if table:
            origins.put(_elements(parameter), _elements(table[0]))
            followed[parameter.name] = "rows that the input did not reach follow the others"
    ours, theirs = unused_parameters(found), _without(found)
    if len(theirs) <= _MOST_LEFT:
        for parameter in theirs:
            alike = [x for x in ours if x.shape == parameter.shape]
            if len(alike) == 1 == sum(x.shape == parameter.shape for x in theirs):
                origins.put(_elements(parameter), _elements(alike[0]))
                followed[parameter.name] = "the only one of its shape that was left"
    return followed


def open_parameters(found: Unification) -> dict[str, str]:
    """Target names of which some element has no origin, and why."""
    reached = reached_parameters(found.target.program)
    of = found.origins.of
    return {
        x.name: "its counterpart was not found"
        if x in reached
        else "no output depends on it for this input"
        for x in found.target.program.parameters
        if (of[x.first : x.first + x.numel] == OPEN).any()
    }


def unused_parameters(found: Unification) -> list[Parameter]:
    """What the source computes with and the target has no part of."""
    parameters = found.source.program.parameters
    starts = torch.tensor([x.first for x in parameters])
    holders = torch.searchsorted(starts, found.origins.of, right=True)  # 0 for none
    used = torch.bincount(holders, minlength=len(parameters) + 1)[1:] > 0
    reached = reached_parameters(found.source.program)
    return [x for x, has in zip(parameters, used.tolist(), strict=True) if x in reached and not has]


def reached_parameters(program: Program) -> set[Parameter]:
    """The parameters that the outputs depend on."""
    return {
        value.parameter
        for operation in program.operations
        for value in operation.inputs
        if value.parameter is not None
    }


def _without(found: Unification) -> list[Parameter]:
    of = found.origins.of
    return [
        x
        for x in found.target.program.parameters
        if (of[x.first : x.first + x.numel] == OPEN).all()
    ]


def _elements(parameter: Parameter) -> torch.Tensor:
    return torch.arange(parameter.first, parameter.first + parameter.numel)
