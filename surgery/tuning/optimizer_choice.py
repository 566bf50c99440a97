"""Which optimizer a name means, which keys it has, and what it keeps for a parameter."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from surgery.errors import OptimizerError, did_you_mean
from surgery.private_torch import tree_leaves
from surgery.specs import TensorSpec

#: What trains where neither the rules nor the caller name an optimizer.
DEFAULT_OPTIMIZER = "adamw"

#: Raised by optimizers' constructors for what a user asked of them.
_CONSTRUCTION_ERRORS = (ValueError, TypeError, RuntimeError, ImportError, AssertionError)

#: Raised by a step on the meta device that reads a value, and by one that wants a closure or
#: another kind of gradient.
STEP_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError)

#: Kernels to leave out of a first step: they keep the same state and need a real device.
_KERNELS = ("foreach", "fused", "capturable", "compile")

#: Torch's own, by name in lower case.
_TORCH: Mapping[str, type[torch.optim.Optimizer]] = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
}


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """An optimizer that was found. ``name`` finds it again; ``build`` takes groups and keys.

    ``signature`` are the constructor's parameters but the groups; ``kind`` is the class.
    """

    name: str
    build: Callable[..., torch.optim.Optimizer]
    signature: Mapping[str, inspect.Parameter]
    kind: type

    def defaults(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Every key that a group can have, with its value under ``base``.

        Asks the real constructor, with one small parameter, so that values it would refuse are
        an :class:`~surgery.errors.OptimizerError` now rather than a crash at the first step.
        """
        probe = torch.nn.Parameter(torch.zeros(2, 2))
        return dict(self.build_checked([{"params": [probe]}], base).defaults)

    def takes(self, base: Mapping[str, Any]) -> bool:
        """Whether it can be made with these keys."""
        try:
            self.defaults(base)
        except OptimizerError:
            return False
        return True

    def build_checked(
        self, groups: list[dict[str, Any]], base: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        """The optimizer, or :class:`~surgery.errors.OptimizerError` in its own words."""
        try:
            return self.build(groups, **base)
        except _CONSTRUCTION_ERRORS as error:
            rate = self.signature.get("lr")
            lacks_rate = "lr" not in base and rate and rate.default is inspect.Parameter.empty
            details = ["no learning rate was given: set one with `base lr=...`"]
            raise OptimizerError(
                f"{self.name} cannot be built: {error}", details if lacks_rate else ()
            ) from error

    def state_bytes(self, keys: Mapping[str, Any], tensors: Iterable[TensorSpec]) -> int | None:
        """Bytes of state after the first step, None where the optimizer cannot be asked.

        Measured rather than tabulated: the real optimizer takes one step on the meta device, where
        tensors have shapes and no values. So factored moments, a momentum that is off and the
        four bytes of Adam's step count come out right, for other libraries' optimizers as well.
        """
        sizes: dict[object, int] = {}
        total = 0
        for tensor in tensors:
            kind = tensor.shape, tensor.dtype
            if kind not in sizes:
                try:
                    dtype = getattr(torch, tensor.dtype)
                    state = self.first_state(keys, tensor.shape, dtype, "meta")
                except STEP_ERRORS:
                    return None
                leaves = (leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))
                sizes[kind] = sum(leaf.nbytes for leaf in leaves)
            total += sizes[kind]
        return total

    def first_state(
        self, keys: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype, device: str
    ) -> Mapping[str, Any]:
        """What is kept under these keys for one parameter after its first step.

        Raises one of STEP_ERRORS where the step cannot be taken.
        """
        values = torch.zeros(shape, dtype=dtype, device=device)
        parameter = torch.nn.Parameter(values)
        parameter.grad = torch.zeros_like(values)
        accepted = self.signature.keys() - _KERNELS
        optimizer = self.build(
            [{"params": [parameter]}], **{key: keys[key] for key in keys if key in accepted}
        )
        optimizer.step()
        state: Mapping[str, Any] = optimizer.state[parameter]
        return state


def find_optimizer(optimizer: str | type[torch.optim.Optimizer]) -> OptimizerChoice:
    """By class, or by name: torch's in any case, else timm's, else ``package.module:Class``,
    with a dot for the colon as well.

    Where torch and timm share a name, ``timm:`` asks for timm's, which comes as timm's factory
    makes it (its momentum of 0.9, no weight decay by default).
    """
    if isinstance(optimizer, type):
        return _from_class(f"{optimizer.__module__}:{optimizer.__qualname__}", optimizer)
    if not isinstance(optimizer, str):
        raise OptimizerError(
            f"an optimizer is a name or a class, not {optimizer!r:.60}; its keys are arguments of "
            "their own, or stand in a base line"
        )
    library, _, name = optimizer.rpartition(":" if ":" in optimizer else ".")
    if library not in ("", "torch", "timm"):
        try:
            found = attrgetter(name)(importlib.import_module(library))
        except (ImportError, AttributeError) as error:
            raise OptimizerError(f"no optimizer at {library}:{name}: {error}") from error
        return _from_class(f"{library}:{name}", found)
    torchs = _TORCH.get(name.lower()) if library != "timm" else None
    if torchs is not None:
        return _from_class(torchs.__name__, torchs)
    timms = _from_timm(name) if library != "torch" else None
    if timms is None:
        from timm.optim import list_optimizers

        hint = did_you_mean(name.lower(), [*_TORCH, *list_optimizers()], count=2)
        raise OptimizerError(
            f"no optimizer is called {optimizer!r}, neither torch's nor timm's{hint}"
        )
    return timms


def _from_timm(name: str) -> OptimizerChoice | None:
    from timm.optim import create_optimizer_v2, get_optimizer_class

    try:
        kind = get_optimizer_class(name.lower(), bind_defaults=False)
    except ValueError:
        return None
    except (ImportError, AssertionError) as error:
        raise OptimizerError(f"timm's {name} cannot be used here: {error}") from error
    build = partial(create_optimizer_v2, opt=name.lower())
    return OptimizerChoice(f"timm:{name.lower()}", build, _signature(kind), kind)


def _from_class(name: str, kind: type) -> OptimizerChoice:
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise OptimizerError(f"{name} is no torch.optim.Optimizer")
    return OptimizerChoice(name, kind, _signature(kind), kind)


def _signature(kind: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, and its base's where it passes ``**kwargs`` on."""
    found: dict[str, inspect.Parameter] = {}
    for cls in kind.__mro__:
        parameters = inspect.signature(cls).parameters
        found = {**parameters, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return {
        key: parameter
        for key, parameter in found.items()
        if key != "params"
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
