"""Which optimizer a name means, and which keys it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from surgery.errors import OptimizerError, did_you_mean

if TYPE_CHECKING:
    import torch

#: What trains where neither the rules nor the caller name an optimizer.
DEFAULT_OPTIMIZER = "adamw"

#: Raised by optimizers' constructors for what a user asked of them.
CONSTRUCTION_ERRORS = (ValueError, TypeError, RuntimeError, ImportError, AssertionError)


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """An optimizer that was found. ``name`` finds it again; ``build`` takes groups and keys.

    ``signature`` are the constructor's parameters but the groups; ``kind`` is the class.
    """

    name: str
    build: Callable[..., torch.optim.Optimizer]
    signature: Mapping[str, inspect.Parameter]
    kind: type

    @property
    def accepted(self) -> frozenset[str]:
        """The keys that it can be made with."""
        return frozenset(self.signature)

    def defaults(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Every key that a group can have, with its value under ``base``.

        Asks the real constructor, with one small parameter, so that values it would refuse are
        an :class:`~surgery.errors.OptimizerError` now rather than a crash at the first step.
        """
        import torch

        probe = torch.nn.Parameter(torch.zeros(2, 2))
        return dict(self.build_checked([{"params": [probe]}], base).defaults)

    def build_checked(
        self, groups: list[dict[str, Any]], base: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        """The optimizer, or :class:`~surgery.errors.OptimizerError` in its own words."""
        try:
            return self.build(groups, **base)
        except CONSTRUCTION_ERRORS as error:
            details = ["no rate was given: set one with `base lr=...`"]
            raise OptimizerError(
                f"{self.name} cannot be built: {error}", details if self._lacks_rate(base) else ()
            ) from error

    def _lacks_rate(self, base: Mapping[str, Any]) -> bool:
        rate = self.signature.get("lr")
        return "lr" not in base and rate is not None and rate.default is inspect.Parameter.empty


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
    library, colon, rest = optimizer.rpartition(":" if ":" in optimizer else ".")
    if not colon:
        return _by_bare_name(optimizer)
    if library in ("torch", "timm"):
        table = _torch_optimizers() if library == "torch" else {}
        choice = table.get(rest.lower()) or (_from_timm(rest) if library == "timm" else None)
        if choice is None:
            raise _unknown(optimizer, rest)
        return choice
    return _from_class(f"{library}:{rest}", _imported(library, rest))


def _by_bare_name(name: str) -> OptimizerChoice:
    choice = _torch_optimizers().get(name.lower()) or _from_timm(name)
    if choice is None:
        raise _unknown(name, name)
    return choice


def _unknown(written: str, name: str) -> OptimizerError:
    from timm.optim import list_optimizers

    known = [*_torch_optimizers(), *list_optimizers()]
    hint = did_you_mean(name.lower(), known, count=2)
    return OptimizerError(f"no optimizer is called {written!r}, neither torch's nor timm's{hint}")


def _torch_optimizers() -> dict[str, OptimizerChoice]:
    import torch

    return {
        name.lower(): _from_class(name, value)
        for name, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }


def _from_timm(name: str) -> OptimizerChoice | None:
    from timm.optim import create_optimizer_v2, get_optimizer_class

    try:
        optimizer_class = get_optimizer_class(name.lower(), bind_defaults=False)
    except ValueError:
        return None
    except (ImportError, AssertionError) as error:
        raise OptimizerError(f"timm's {name} cannot be used here: {error}") from error
    build = partial(create_optimizer_v2, opt=name.lower())
    return OptimizerChoice(
        f"timm:{name.lower()}", build, _signature(optimizer_class), optimizer_class
    )


def _imported(module: str, name: str) -> type[torch.optim.Optimizer]:
    import importlib

    import torch

    try:
        found = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise OptimizerError(f"no optimizer at {module}:{name}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise OptimizerError(f"{module}:{name} is no torch.optim.Optimizer")
    return found


def _from_class(name: str, optimizer_class: type[torch.optim.Optimizer]) -> OptimizerChoice:
    if not issubclass(optimizer_class, _optimizer_base()):
        raise OptimizerError(f"{name} is no torch.optim.Optimizer")
    return OptimizerChoice(name, optimizer_class, _signature(optimizer_class), optimizer_class)


def _optimizer_base() -> type:
    import torch

    return torch.optim.Optimizer


def _signature(optimizer_class: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, and its base's where it passes ``**kwargs`` on."""
    found: dict[str, inspect.Parameter] = {}
    for cls in optimizer_class.__mro__:
        parameters = inspect.signature(cls).parameters
        found = {**parameters, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        key: parameter
        for key, parameter in found.items()
        if key != "params" and parameter.kind not in variable
    }
