"""Which functions a network calls, on which tensors: seen in the functions, not in the modules.

Where one implementation has a module, another calls a function, and a third has both in one
module. ``conv2d(x, w, stride=2)`` is called by all of them. A call is recognised on both sides by
the tensors of the checkpoint that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, get_testing_overrides
from torch.utils.weak import WeakIdKeyDictionary

from surgery.private_torch import tree_leaves

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a function that shapes what a network computes.

    ``key`` are the checkpoint's tensors that it takes, as the network's own values; ``settings``
    its other arguments as text. ``fed`` and ``gave`` are copies of the largest tensor that came
    in and of the result, where copies are kept. ``clean`` says that no tensor which the other
    network lacks had a part in the result.
    """

    name: str
    key: tuple[str, ...]
    settings: Settings
    fed: torch.Tensor | None
    gave: torch.Tensor
    clean: bool

    def without_values(self) -> Call:
        """The call with nothing that came out of it: tensors hold their graph in memory."""
        return replace(self, fed=None, gave=torch.empty(0))


#: Functions whose kind and settings tell one network from another. What only moves elements or
#: adds them up is left out: two implementations do that in different ways.
_TELLING = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "linear", "embedding", "multi_head_attention_forward"),
        *(
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose3d",
            "scaled_dot_product_attention",
        ),
        *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"),
        *("local_response_norm", "softmax", "log_softmax", "sigmoid", "tanh", "softplus", "glu"),
        *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu"),
        *("gelu", "silu", "mish", "hardswish", "hardsigmoid", "roll", "pixel_shuffle"),
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d"),
        *("pad", "interpolate"),
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


class Watch(TorchFunctionMode):
    """Notes calls, and follows what comes of the input and of tensors that only one side has.

    ``names`` are the checkpoint's names of live tensors, by ``id``; ``foreign`` the ``id`` s of
    tensors that the other network has no part of. ``copies`` keeps what went in and out.
    ``frontier`` collects what the foreign tensors are first applied to: a new head's input.
    """

    def __init__(
        self, names: Mapping[int, tuple[str, ...]], foreign: Iterable[int], *, copies: bool = False
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.frontier: list[torch.Tensor] = []
        self._names = names
        self._foreign = frozenset(foreign)
        self._copies = copies
        self._of_input: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._of_foreign: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def start(self, inputs: Iterable[torch.Tensor]) -> None:
        """Follow these tensors as the network's input."""
        for tensor in inputs:
            self._of_input[tensor] = True

    def touched(self, tensor: torch.Tensor) -> bool:
        """Whether a foreign tensor had a part in this one."""
        return id(tensor) in self._foreign or tensor in self._of_foreign

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        key = tuple(dict.fromkeys(n for each in taken for n in self._names.get(id(each), ())))
        data = [each for each in taken if id(each) not in self._names and each in self._of_input]
        touched = any(map(self.touched, taken))
        if touched:
            self._note_frontier(data)
        fed = self._copy(max(data, key=torch.Tensor.numel)) if data else None
        gave = _called(func, name, args, dict(kwargs))
        for result in tree_leaves(gave):
            if isinstance(result, torch.Tensor):
                self._follow(result, bool(data), touched)
        if (kind := _kind(name)) in _TELLING and isinstance(gave, torch.Tensor):
            settings = _settings(func, kind, args, kwargs)
            kind, settings = _canonical(kind, settings, taken)
            copy = self._copy(gave)
            self.calls.append(
                Call(kind, key, settings, fed, gave if copy is None else copy, not touched)
            )
        return gave

    def _follow(self, result: torch.Tensor, of_input: bool, of_foreign: bool) -> None:
        if of_input:
            self._of_input[result] = True
        if of_foreign:
            self._of_foreign[result] = True

    def _note_frontier(self, data: Iterable[torch.Tensor]) -> None:
        known = set(map(id, self.frontier))
        self.frontier += [
            each
            for each in data
            if each.is_floating_point() and not self.touched(each) and id(each) not in known
        ]

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Many networks go on in place: what is not copied is soon another value."""
        return tensor.detach().clone() if self._copies else None


def _called(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The call itself; torch's own norm over running statistics gives them no gradient."""
    if name in ("batch_norm", "instance_norm"):
        bound = _bound(func, args, kwargs) or {}
        live = bound.get("training") or bound.get("use_input_stats")
        if not live and bound.get("running_mean") is not None:
            return _normalised(**bound)
    return func(*args, **kwargs)


def _normalised(
    input: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    **_: Any,
) -> torch.Tensor:
    """The formula of torch.nn.BatchNorm2d and InstanceNorm2d in eval mode: channels are the second
    axis.
    """
    shape = (1, -1, *(1 for _ in input.shape[2:]))
    scaled = (input - running_mean.view(shape)) / (running_var.view(shape) + eps).sqrt()
    if weight is not None:
        scaled = scaled * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _kind(name: str) -> str:
    return name.removesuffix("_") if not name.startswith("_") else name


@cache
def _signatures() -> dict[Any, Callable[..., Any]]:
    """Python signatures of all functions that can be overridden, those written in C included."""
    return dict(get_testing_overrides())


def _bound(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Arguments by name, defaults included; None where the signature is not known."""
    for candidate in (func, _signatures().get(func)):
        try:
            bound = inspect.signature(candidate).bind(*args, **kwargs)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if any(p.kind is p.VAR_POSITIONAL for p in bound.signature.parameters.values()):
            continue  # it says nothing
        bound.apply_defaults()
        return dict(bound.arguments)
    return None


def _settings(
    func: Callable[..., Any], kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Settings:
    bound = _bound(func, args, kwargs)
    if bound is None:  # boolean dispatch (max_pool2d): all but the first two go by name
        names = ("input", "kernel_size", "stride", "padding")
        bound = {**dict(zip(names, args, strict=False)), **kwargs}
    return tuple(
        (name, text_of(value))
        for name, value in bound.items()
        if name not in _IRRELEVANT and not isinstance(value, torch.Tensor) and value is not None
    )


def text_of(value: Any) -> str:
    """Short text; (3, 3) is 3, as layers take either."""
    if isinstance(value, list | tuple) and value and all(each == value[0] for each in value):
        return text_of(value[0])
    if isinstance(value, list | tuple):
        return f"({', '.join(map(text_of, value))})"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _canonical(
    kind: str, settings: Settings, taken: Sequence[torch.Tensor]
) -> tuple[str, Settings]:
    """One name for what has several: Hardtanh from 0 to 6 is ReLU6, and attention whose queries
    are scaled as usual is the softmax that others write out.
    """
    given = dict(settings)
    if kind == "hardtanh" and given == {"min_val": "0", "max_val": "6"}:
        return "relu6", ()
    if kind == "scaled_dot_product_attention" and given.get("is_causal") != "True":
        usual = text_of(taken[0].shape[-1] ** -0.5)
        return (
            ("softmax", (("dim", "-1"),))
            if given.get("scale", usual) == usual
            else (kind, settings)
        )
    return kind, settings
