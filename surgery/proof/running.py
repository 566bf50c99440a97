"""One run of one network on given values: what it returned, what it called, what acted."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call

from surgery.errors import SurgeryError
from surgery.networks.inputs import Example
from surgery.proof.doubling import in_float64
from surgery.proof.outputs import tensors_in
from surgery.proof.parts import names_taken
from surgery.proof.values import is_inexact
from surgery.proof.watching import Call, Watch
from surgery.transfers.assembled import make_tensor
from surgery.transfers.plan import Assemble, Load

if TYPE_CHECKING:
    from torch import nn

Named = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Side:
    """One of the two networks, in float64 and eval mode.

    ``steps`` say how its tensors are made of the checkpoint's; ``foreign`` are tensors of its own
    that have no part in the transfer: a new head here, the old one there. ``adapted`` are those
    between which an adapter stands, with its name: they hold other values on either side.
    ``note`` is what a reader has to know of how the steps were found.
    """

    label: str
    model: nn.Module
    steps: Mapping[str, Load | Assemble]
    foreign: frozenset[str] = frozenset()
    adapted: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def live(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer under each of its names."""
        model = self.model
        return {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }

    def without(self, unheard: Iterable[str]) -> Side:
        """The side with fewer foreign tensors."""
        return replace(self, foreign=self.foreign - frozenset(unheard))


@dataclass(frozen=True)
class Run:
    """What came out: all ``outputs``, and the ``points`` of it in which no foreign tensor has a
    part. Where one has, what foreign tensors are first applied to stands for it: features.
    """

    outputs: Named
    points: Named
    calls: Sequence[Call]
    foreign: Mapping[str, torch.Tensor]

    def settled(self, *, copies: bool) -> Run:
        """The run without its graph and, but for ``copies``, without what lies between."""
        shut = [(name, value.detach()) for name, value in self.outputs]
        calls = [call if copies else call.without_values() for call in self.calls]
        return Run(shut, shut, calls, {})

    @property
    def whole(self) -> bool:
        """Whether all outputs can be compared."""
        return self.points is self.outputs


def run(
    side: Side,
    values: Mapping[str, torch.Tensor],
    example: Example,
    *,
    copies: bool = False,
    seed: int = 0,
) -> Run:
    """Run one side with the checkpoint's tensors set to ``values``; the model is left as it was.

    Networks that draw random numbers in eval mode draw the same on both sides.
    """
    own = _own_values(side, values)
    names: dict[int, tuple[str, ...]] = {}
    for name, value in own.items():
        if name not in side.foreign:
            names[id(value)] = names_taken(side.steps[name])
    foreign = {name: own[name] for name in own if name in side.foreign}
    watch = Watch(names, map(id, foreign.values()), copies=copies)
    watch.start([example.tensor, *example.more.values()])
    with torch.random.fork_rng(devices=[]), forgetting(side.model), in_float64(), watch:
        torch.manual_seed(seed)
        output = functional_call(
            side.model, own, (example.tensor,), example.keywords(side.model), strict=False
        )
    outputs = list(tensors_in(output))
    clean = [(name, value) for name, value in outputs if not watch.touched(value)]
    points = outputs if len(clean) == len(outputs) else [*clean, *_frontier(watch, example)]
    return Run(outputs, points, watch.calls, foreign)


@contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """What the network notes down while it runs is gone afterwards.

    Some keep what they once computed from their weights (LeViT's attention biases in eval mode)
    and would answer the next values with the last ones.
    """
    before = [(module, _noted(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, noted in before:
            vars(module).clear()
            vars(module).update(noted)


def _noted(module: nn.Module) -> dict[str, Any]:
    return {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value
        for name, value in vars(module).items()
    }


def _frontier(watch: Watch, example: Example) -> Named:
    features = [value for value in watch.frontier if value is not example.tensor]
    if len(features) == 1:
        return [("features", features[0])]
    return [(f"features[{at}]", value) for at, value in enumerate(features)]


def _own_values(side: Side, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's tensors by name, each of them once."""
    given: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name in (*side.steps, *sorted(side.foreign)):
        if name not in side.live:
            raise SurgeryError(f"{side.label} has no parameter or buffer {name}")
        if id(side.live[name]) in seen:
            continue
        if name in side.foreign:
            given[name] = side.live[name].detach().clone().requires_grad_()
        else:
            given[name] = planned(side.steps[name], values)
        seen.add(id(side.live[name]))
    return given


def planned(step: Load | Assemble, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What the step makes of the checkpoint's values, so that gradients find their way back."""
    if isinstance(step, Load):
        made = values[step.source.name]
    else:
        made = make_tensor(step.operation, step.target.shape, values.__getitem__)
    becomes_complex = step.target.dtype.startswith("complex") and not made.is_complex()
    return made.to(torch.complex128) if becomes_complex else made


def gradients(
    points: Named,
    values: Mapping[str, torch.Tensor],
    scales: Sequence[float],
    *,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """How one random combination of all points moves with every tensor; zeros where it does not.

    The first-order effect of perturbing each element of each tensor alone, in one backward pass.
    ``scales`` bring every point to a size of one; they must be the same on both sides.
    """
    leaves = {name: value for name, value in values.items() if value.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for at, ((_, point), scale) in enumerate(zip(points, scales, strict=True)):
        generator = torch.Generator().manual_seed(seed + at)
        flat = point.reshape(-1)
        direction = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
        # Real and imaginary parts, where there are both, pull in different directions.
        total = total + (flat.real * direction).sum() / (scale * flat.numel() ** 0.5)
        if flat.is_complex():
            total = total + (flat.imag * direction.flip(0)).sum() / (scale * flat.numel() ** 0.5)
    if not total.requires_grad or not leaves:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(leaves.items(), found, strict=True)
    }


def as_leaves(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values as the ends of a graph: those of real or complex numbers ask for gradients."""
    return {
        name: value.detach().requires_grad_() if is_inexact(value) else value
        for name, value in values.items()
    }
