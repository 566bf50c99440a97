"""Operators in one form: what implementations write in several ways is taken apart alike.

A linear layer is a product and an addition, an affine norm is the plain norm, a factor and an
addition, so that each parameter meets the data in one operator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch

from surgery.matching.code.program import Kind
from surgery.private_torch import Operator

aten = torch.ops.aten


class Record(Protocol):
    """Runs and writes down one operator, and says what is known of a tensor."""

    @property
    def even_choice(self) -> bool:
        """Whether experts are chosen without a look at the values."""

    def __call__(self, function: Operator, *args: Any, **kwargs: Any) -> Any: ...

    def kind(self, tensor: torch.Tensor) -> Kind: ...

    def repeats(self, tensor: torch.Tensor) -> bool: ...

    def terms(self, tensor: torch.Tensor) -> list[torch.Tensor]: ...


#: Another form of an operator, or NotImplemented where it is left as it is.
Form = Callable[..., Any]


def _addmm(do: Record, bias: Any, one: Any, other: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    if beta != 1 or alpha != 1:
        return NotImplemented
    return do(aten.add.Tensor, do(aten.mm.default, one, other), bias)


def _baddbmm(do: Record, bias: Any, one: Any, other: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    product = do(aten.bmm.default, one, other)
    product = product if alpha == 1 else do(aten.mul.Scalar, product, alpha)
    return product if beta == 0 else do(aten.add.Tensor, product, bias)


def _convolution(do: Record, data: Any, weight: Any, bias: Any, *how: Any) -> Any:
    if bias is None:
        return NotImplemented
    made = do(aten.convolution.default, data, weight, None, *how)
    return do(aten.add.Tensor, made, _by_channel(do, bias, made))


def _layer_norm(do: Record, data: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    if weight is None and bias is None:
        return NotImplemented
    made, *rest = do(aten.native_layer_norm.default, data, shape, None, None, eps)
    made = made if weight is None else do(aten.mul.Tensor, made, weight)
    return (made if bias is None else do(aten.add.Tensor, made, bias)), *rest


def _group_norm(do: Record, data: Any, weight: Any, bias: Any, *how: Any) -> Any:
    if weight is None and bias is None:
        return NotImplemented
    made, *rest = do(aten.native_group_norm.default, data, None, None, *how)
    made = made if weight is None else do(aten.mul.Tensor, made, _by_channel(do, weight, made))
    return (made if bias is None else do(aten.add.Tensor, made, _by_channel(do, bias, made))), *rest


def _rms_norm(do: Record, data: Any, shape: Any, weight: Any, eps: float | None) -> Any:
    """Without torch's own operator: the mean of squares over the last axes."""
    axes = [*range(-len(shape), 0)]
    mean = do(aten.mean.dim, do(aten.pow.Tensor_Scalar, data, 2), axes, True)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    scale = do(aten.rsqrt.default, do(aten.add.Scalar, mean, eps))
    made = do(aten.mul.Tensor, data, scale)
    return (made if weight is None else do(aten.mul.Tensor, made, weight)), scale


def _by_channel(do: Record, values: Any, data: Any) -> Any:
    return do(aten.view.default, values, [1, -1, *[1] * (data.dim() - 2)])


def _softmax(do: Record, data: Any, axis: int, *_: Any, **__: Any) -> Any:
    """Rows that are masked whole are the only difference to the plain one."""
    return do(aten._softmax.default, data, axis, False)


def _bmm(do: Record, one: Any, other: Any) -> Any:
    """A batch of parameter matrices, of experts or of capsules, is one product for each."""
    if do.kind(one) == do.kind(other) or "parameter" not in (do.kind(one), do.kind(other)):
        return NotImplemented
    parameter = one if do.kind(one) == "parameter" else other
    if do.repeats(parameter):
        return NotImplemented
    products = [
        do(
            aten.mm.default,
            do(aten.select.int, one, 0, at),
            do(aten.select.int, other, 0, at),
        )
        for at in range(len(one))
    ]
    return do(aten.stack.default, products)


def _add(do: Record, one: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Data and a sum of a parameter and a constant, a mask, are a sum of three."""
    if alpha != 1 or not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return NotImplemented
    kinds = do.kind(one), do.kind(other)
    if kinds not in (("data", "parameter"), ("parameter", "data")):
        return NotImplemented
    data, parameter = (one, other) if kinds[0] == "data" else (other, one)
    terms = do.terms(parameter)
    if not terms:
        return NotImplemented
    for term in terms:
        data = do(aten.add.Tensor, data, term)
    return data


def _batch_norm(do: Record, data: Any, weight: Any, bias: Any, mean: Any, *how: Any) -> Any:
    """With statistics of its own, whose eps alone matters: not how fast they would move."""
    variance, training, eps = how[0], how[1] if len(how) == 4 else False, how[-1]
    if training or mean is None or how[1:] == (False, 0.0, eps):
        return NotImplemented
    norm = aten.native_batch_norm.default
    return do(norm, data, weight, bias, mean, variance, False, 0.0, eps)


def _topk(do: Record, data: Any, many: int, axis: int = -1, *_: Any) -> Any:
    """A choice that does not look at the values: each token is given to the next experts, so that
    one run meets all of them, and meets the same ones in both networks.
    """
    if not do.even_choice:
        return NotImplemented
    sizes = [size for at, size in enumerate(data.shape) if at != axis % data.dim()]
    tokens = torch.arange(math.prod(sizes)).view(*sizes, 1)
    chosen = ((tokens * many + torch.arange(many)) % data.shape[axis]).movedim(-1, axis)
    return do(aten.gather.default, data, axis, chosen), chosen


FORMS: dict[Any, Form] = {
    aten.addmm: _addmm,
    aten.baddbmm: _baddbmm,
    aten.convolution: _convolution,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten._fused_rms_norm: _rms_norm,
    aten._safe_softmax: _softmax,
    aten.bmm: _bmm,
    aten.add: _add,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.topk: _topk,
}

#: Operators that give the same whatever is in the tensor that they take.
CONSTRUCTORS = frozenset(
    {
        aten.zeros_like,
        aten.ones_like,
        aten.full_like,
        aten.empty_like,
        aten.new_zeros,
        aten.new_ones,
        aten.new_full,
        aten.new_empty,
    }
)

#: Operators that give each element once and no other, in another order or shape.
VIEWS = frozenset(
    {
        aten.view,
        aten._unsafe_view,
        aten.reshape,
        aten.t,
        aten.transpose,
        aten.permute,
        aten.unsqueeze,
        aten.squeeze,
        aten.clone,
        aten.detach,
        aten.alias,
        aten._reshape_alias,
        aten.lift_fresh,
        aten._to_copy,
    }
)
#: Operators that only move elements, and so tell of a parameter which ones they show.
MOVES = VIEWS | {
    aten.expand,
    aten.slice,
    aten.select,
    aten.cat,
    aten.stack,
    aten.unbind,
    aten.split,
    aten.split_with_sizes,
    aten.repeat,
    aten.index,
    aten.index_select,
    aten.embedding,
    aten.as_strided,
    aten.flip,
    aten.roll,
    aten.unfold,
    aten.diagonal,
    aten.gather,
    aten.constant_pad_nd,
    aten.slice_scatter,
    aten.select_scatter,
    aten.movedim,
}
