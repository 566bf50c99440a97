"""Networks that are run in float64, also where they ask for less (rounding would hide differences),
and which functions they call on which tensors: seen in the functions, not in the modules.

Where one implementation has a module, another calls a function, and a third has both in one
module. ``conv2d(x, w, stride=2)`` is called by all of them. A call is recognised on both sides by
the tensors of the checkpoint that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, get_testing_overrides
from torch.utils.weak import WeakIdKeyDictionary

from surgery.private_torch import tree_leaves

_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})
_CASTS = frozenset({"float", "half", "bfloat16"})


class Widen(TorchFunctionMode):
    """Functions that are asked for float32 or less give float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _CASTS:
            return self.call(torch.Tensor.double, args[:1], {})
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return self.call(func, tuple(map(_wide, args)), named)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of a function of torch."""
        return func(*args, **kwargs)


@contextmanager
def in_float64(mode: Widen) -> Iterator[None]:
    """Whatever is built or computed in here is float64: new tensors, and casts to anything less.

    Norms and softmaxes that ask for float32 get float64 too, and so do the tables that
    constructors compute (relative coordinates, rotary frequencies).
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mode:
            yield
    finally:
        torch.set_default_dtype(before)


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a function that shapes what a network computes.

    ``key`` are the checkpoint's tensors that it takes, as the network's own values; ``settings``
    its other arguments as text. ``fed`` and ``gave`` are copies of the largest tensor that came
    of the input, and of the result: many networks go on in place. ``clean`` says that no tensor
    which the other network lacks had a part in the result. ``before`` are the calls since the last
    one on tensors that both networks have, as text.
    """

    name: str
    key: tuple[str, ...]
    settings: Mapping[str, str]
    fed: torch.Tensor | None
    gave: torch.Tensor
    clean: bool
    before: tuple[str, ...] = ()


#: Functions whose kind and settings tell one network from another. What only moves elements or
#: adds them up (a mean is written as pooling, too) is left out: two implementations do that in
#: different ways.
_TELLING = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "linear", "embedding", "multi_head_attention_forward"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        "scaled_dot_product_attention",
        *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"),
        *("local_response_norm", "softmax", "log_softmax", "sigmoid", "tanh", "softplus", "glu"),
        *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu"),
        *("gelu", "silu", "mish", "hardswish", "hardsigmoid", "roll", "pixel_shuffle"),
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_max_pool2d", "pad", "interpolate"),
    }
)
#: Arguments that change nothing in eval mode, or that are no settings.
_IRRELEVANT = frozenset(
    {
        *("input", "self", "inplace", "training", "momentum", "dropout_p", "p", "dtype", "out"),
        *("return_indices", "need_weights", "_stacklevel", "use_input_stats", "normalized_shape"),
        *("running_mean", "running_var", "weight", "bias", "query", "key", "value", "attn_mask"),
        *("max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
    }
)


class Watch(Widen):
    """Notes calls, and follows what comes of the input and of tensors that only one side has.

    ``keys`` are what live tensors are made of, by ``id``; ``foreign`` the ``id`` s of tensors that
    the other network has no part of; ``inputs`` what the network is shown. ``frontier`` collects
    what the foreign tensors are first applied to: a new head's input.
    """

    def __init__(
        self,
        keys: Mapping[int, tuple[str, ...]],
        foreign: Iterable[int],
        inputs: Iterable[torch.Tensor],
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.frontier: list[torch.Tensor] = []
        self._keys = keys
        self._foreign = frozenset(foreign)
        self._of_input: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._of_foreign: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in inputs:
            self._of_input[tensor] = True

    def touched(self, tensor: torch.Tensor) -> bool:
        """Whether a foreign tensor had a part in this one."""
        return id(tensor) in self._foreign or tensor in self._of_foreign

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = getattr(func, "__name__", "").removesuffix("_")
        arguments = _arguments(func, args, kwargs) if kind in _TELLING else {}
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        data = [each for each in taken if id(each) not in self._keys and each in self._of_input]
        touched = any(map(self.touched, taken))
        if touched:
            known = set(map(id, self.frontier))
            clean = (each for each in data if not self.touched(each) and id(each) not in known)
            self.frontier += filter(torch.Tensor.is_floating_point, clean)
        fed = max(data, key=torch.Tensor.numel).detach().clone() if data and arguments else None
        of_batch = arguments.get("training") or arguments.get("use_input_stats")
        if arguments.get("running_mean") is not None and not of_batch:
            gave = _normalised(**arguments)
        else:
            gave = func(*args, **kwargs)
        for result in tree_leaves(gave):
            if isinstance(result, torch.Tensor):
                if data:
                    self._of_input[result] = True
                if touched:
                    self._of_foreign[result] = True
        if arguments and isinstance(gave, torch.Tensor):
            key = tuple(dict.fromkeys(n for each in taken for n in self._keys.get(id(each), ())))
            kind, settings = _settings(kind, arguments, taken[0])
            self.calls.append(Call(kind, key, settings, fed, gave.clone(), not touched))
        return gave


def _normalised(
    input: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    **_: Any,
) -> torch.Tensor:
    """The formula of torch.nn.BatchNorm2d and InstanceNorm2d in eval mode, where torch's own
    function gives running statistics no gradient: channels are the second axis.
    """
    shape = (1, -1, *(1 for _ in input.shape[2:]))
    scaled = (input - running_mean.view(shape)) / (running_var.view(shape) + eps).sqrt()
    if weight is not None:
        scaled = scaled * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _arguments(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by name, defaults included, as far as a signature is known."""
    try:
        # Python signatures of all that can be overridden, what is written in C included.
        known = get_testing_overrides().get(func, func)
        bound = inspect.signature(known).bind(*args, **kwargs)
    except (TypeError, ValueError):  # that of scaled_dot_product_attention lacks some
        return {**{f"argument {at}": value for at, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    return dict(bound.arguments)


def _settings(
    kind: str, arguments: Mapping[str, Any], first: torch.Tensor
) -> tuple[str, dict[str, str]]:
    """The kind and its settings. Attention whose queries (``first``) are scaled as usual is the
    softmax that others write out.
    """
    if kind == "scaled_dot_product_attention" and not arguments.get("is_causal"):
        usual = first.shape[-1] ** -0.5
        if text_of(arguments.get("scale") or usual) == text_of(usual):
            return "softmax", {"dim": "-1"}
    return kind, {
        name: text_of(value)
        for name, value in arguments.items()
        if name not in _IRRELEVANT and not isinstance(value, torch.Tensor) and value is not None
    }


def text_of(value: Any) -> str:
    """Short text; (3, 3) is 3, as layers take either."""
    if isinstance(value, list | tuple) and value and all(each == value[0] for each in value):
        return text_of(value[0])
    if isinstance(value, list | tuple):
        return f"({', '.join(map(text_of, value))})"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
