"""Uses: the operators in which parameters and data meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from surgery.matching.code.normal_forms import VIEWS, aten
from surgery.matching.code.program import Operation, Program, Value

#: ``rows``: each row of a parameter makes an output of its own of all the data: a product, a
#: convolution, an embedding. ``elements``: a factor or a term. ``statistics``: a batch norm.
#: ``cat``: parameters beside data. ``other``: anything else.
Kind = Literal["rows", "elements", "statistics", "cat", "other"]


@dataclass(eq=False, slots=True)
class Use:
    """One operator in which parameters meet data.

    ``elements`` are the numbers of the parameter's elements: (outputs, inputs) for rows. ``how``
    is what two uses of rows must share to be one; ``axis`` that of the outputs. ``bias`` is the
    addition that follows at once, ``parts`` are the parameters of a norm (weight, bias, mean,
    variance) or beside data. Where parameters are computed in ways that move no elements
    ``elements`` are unknown.
    """

    operation: Operation
    kind: Kind
    data: Value
    elements: torch.Tensor | None = None
    how: tuple[Any, ...] = ()
    axis: int = -1
    patch: tuple[int, ...] = ()
    bias: Use | None = None
    is_bias: bool = False
    parts: Sequence[torch.Tensor | None] = field(default=())

    @property
    def name(self) -> str:
        return self.operation.name

    def features(self, data: torch.Tensor) -> torch.Tensor:
        """The data as (tokens, inputs), in the order of the columns of ``elements``."""
        if self.patch:
            sides = [
                x for n, k in zip(data.shape[2:], self.patch, strict=True) for x in (n // k, k)
            ]
            cut = data.reshape(*data.shape[:2], *sides)
            many = range(len(self.patch))
            order = (0, *(2 + 2 * at for at in many), 1, *(3 + 2 * at for at in many))
            return cut.permute(order).reshape(-1, data.shape[1] * torch.Size(self.patch).numel())
        axis = 1 if self.how[0] == "convolution" else 0 if self.how[0] == "left" else -1
        axis = 1 if self.how[0] == "linear" and self.axis == 1 else axis
        return data.movedim(axis, -1).reshape(-1, data.shape[axis])


def uses_of(program: Program) -> dict[Operation, Use]:
    """All uses by their operator, biases joined to the rows that they follow."""
    uses = {
        operation: use
        for operation in program.operations
        if operation.data and operation.parameters
        for use in [_use(operation)]
    }
    for use in uses.values():
        if use.kind == "rows" and (bias := _bias_of(use, program, uses)):
            use.bias = bias
            bias.is_bias = True
    return uses


def _use(operation: Operation) -> Use:
    parameters = operation.parameters
    data = operation.data[0]
    read = _READERS.get(operation.function.overloadpacket)
    known = all(value.elements is not None for value in parameters)
    found = read(operation) if read and (known or read is _elementwise) else None
    return found or Use(operation, "other", data, parts=[x.elements for x in parameters])


def _product(operation: Operation) -> Use | None:
    (one, other), _ = operation.given()
    if other.kind == "parameter":
        elements = other.elements
        if elements.dim() == 3:
            if not bool((elements == elements[:1]).all()):
                return None
            elements = elements[0]
        rows = elements.t()
        return Use(operation, "rows", one, rows, ("linear", rows.shape[1]))
    if one.elements.dim() != 2:
        return None
    how = ("left", one.shape[1])
    return Use(operation, "rows", other, one.elements, how, axis=0)


def _convolution(operation: Operation) -> Use | None:
    (data, weight, _, stride, padding, dilation, transposed, more, groups), _ = operation.given()
    if data.kind != "data" or weight.kind != "parameter":
        return None
    kernel = weight.shape[2:]
    many = len(kernel)
    stride, padding, dilation, more = (
        tuple(x) * many if len(x) == 1 else tuple(x) for x in (stride, padding, dilation, more)
    )
    elements = weight.elements
    if transposed and groups == 1:
        elements = elements.transpose(0, 1)
    # Windows that do not overlap, or one over the whole picture: a linear layer over patches.
    apart = not transposed and groups == 1 and not any(padding) and set(dilation) <= {1}
    apart = apart and kernel in (stride, data.shape[2:])
    if apart and all(size % side == 0 for size, side in zip(data.shape[2:], kernel, strict=True)):
        rows = elements.reshape(elements.shape[0], -1)
        patch = () if set(kernel) <= {1} else kernel
        return Use(operation, "rows", data, rows, ("linear", rows.shape[1]), axis=1, patch=patch)
    how = (kernel, stride, padding, dilation, transposed, groups, more, tuple(elements.shape[1:]))
    return Use(operation, "rows", data, elements, ("convolution", *how), axis=1)


def _embedding(operation: Operation) -> Use | None:
    (table, tokens, *_), _ = operation.given()
    if table.kind != "parameter" or tokens.kind != "data":
        return None
    rows = table.elements.t()
    return Use(operation, "rows", tokens, rows, ("embedding", rows.shape[1]))


def _elementwise(operation: Operation) -> Use | None:
    if len(operation.inputs) != 2 or len(operation.parameters) != 1:
        return None
    if operation.name in ("add", "sub") and operation.scalars not in ((), (1,)):
        return None
    (parameter,) = operation.parameters
    return Use(operation, "elements", operation.data[0], parameter.elements, (operation.name,))


def _statistics(operation: Operation) -> Use | None:
    args, _ = operation.given()
    parts = [None if value is None else value.elements for value in args[1:5]]
    return Use(operation, "statistics", args[0], parts=parts)


def _cat(operation: Operation) -> Use | None:
    parts = [value.elements for value in operation.parameters]
    return Use(operation, "cat", operation.data[0], parts=parts)


_READERS = {
    aten.mm: _product,
    aten.bmm: _product,
    aten.convolution: _convolution,
    aten.embedding: _embedding,
    aten.add: _elementwise,
    aten.sub: _elementwise,
    aten.mul: _elementwise,
    aten.div: _elementwise,
    aten.native_batch_norm: _statistics,
    aten.cat: _cat,
    aten.stack: _cat,
}


def _bias_of(use: Use, program: Program, uses: dict[Operation, Use]) -> Use | None:
    """The addition of one number for each row that alone takes what a use gives."""
    assert use.elements is not None
    value, rows = use.operation.outputs[0], use.elements.shape[0]
    while len(program.consumers.get(value, ())) == 1:
        (operation,) = program.consumers[value]
        found = uses.get(operation)
        if found is not None:
            if found.kind != "elements" or found.name != "add" or found.elements is None:
                return None
            shape = operation.parameters[0].shape
            shape = (*[1] * (len(operation.outputs[0].shape) - len(shape)), *shape)
            is_bias = found.elements.numel() == rows == shape[use.axis]
            return found if is_bias else None
        if operation.function.overloadpacket not in VIEWS or use.axis != -1:
            return None
        value = operation.outputs[0]
        if value.shape[-1:] != (rows,):
            return None
    return None


def root(value: Value) -> Value:
    """What a value shows all elements of, in another order or shape."""
    while value.made_by is not None and value.made_by.function.overloadpacket in VIEWS:
        value = value.made_by.inputs[0]
    return value
