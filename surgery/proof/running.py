"""One run of one network on given values: what it returned, what it called, what acted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call

from surgery.networks.forgetting import forgetting
from surgery.networks.inputs import Example
from surgery.proof.parts import taken_by
from surgery.proof.sides import Side
from surgery.proof.watching import Call, Watch, in_float64
from surgery.transfers.recipe_tensors import make_tensor

Named = list[tuple[str, torch.Tensor]]

#: What the main output is called, where an output has names: transformers, then torchvision.
_MAIN = ("logits", "last_hidden_state", "out")


@dataclass(frozen=True)
class Run:
    """What came out: all ``outputs``, and the ``points`` of it in which no foreign tensor has a
    part. Where one has, what foreign tensors are first applied to stands for it: features.
    ``foreign`` are the values of foreign tensors.
    """

    outputs: Named
    points: Named
    calls: Sequence[Call]
    foreign: Mapping[str, torch.Tensor]

    @property
    def whole(self) -> bool:
        """Whether all outputs can be compared."""
        return self.points is self.outputs


def run(side: Side, values: Mapping[str, torch.Tensor], example: Example, *, seed: int = 0) -> Run:
    """Run one side with the checkpoint's tensors set to ``values``; the model is left as it was.

    Networks that draw random numbers in eval mode draw the same on both sides.
    """
    # Of several names of one tensor the first: it is given once.
    names = reversed((*side.recipes, *side.foreign))
    first = {*{id(side.live[name]): name for name in names}.values()}
    foreign = {
        name: side.live[name].detach().clone().requires_grad_()
        for name in side.foreign
        if name in first
    }
    taken = {name: _made(side, name, values) for name in side.recipes if name in first}
    keys = {id(value): _key(side, name) for name, value in taken.items()}
    more = example.keywords(side.model)
    watch = Watch(keys, map(id, foreign.values()), [example.tensor, *more.values()])
    with torch.random.fork_rng(devices=[]), forgetting(side.model), in_float64(watch):
        torch.manual_seed(seed)
        output = functional_call(
            side.model,
            {**taken, **foreign},
            (example.tensor,),
            more,
            strict=False,
        )
    outputs = list(_tensors_in(output))
    clean = [(name, value) for name, value in outputs if not watch.touched(value)]
    points = outputs if len(clean) == len(outputs) else [*clean, *_features(watch, example)]
    return Run(outputs, points, watch.calls, foreign)


def _tensors_in(output: Any, name: str = "output") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of real or complex numbers in an output, each with where it is."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() or output.is_complex():
            yield name, output
    elif isinstance(output, Mapping):  # transformers' ModelOutput is one
        for key, value in output.items():
            yield from _tensors_in(value, str(key))
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from _tensors_in(getattr(output, field.name), field.name)
    elif isinstance(output, list | tuple):
        for at, value in enumerate(output):
            yield from _tensors_in(value, f"{name}[{at}]")


def main_output(outputs: Named) -> Named:
    """The one that others are beside: by its name, else the first."""
    named = dict(outputs)
    for name in _MAIN:
        if name in named:
            return [(name, named[name])]
    return outputs[:1]


def _made(side: Side, name: str, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    made = make_tensor(side.recipes[name], values.__getitem__, torch.float64)
    becomes_complex = side.live[name].is_complex() and not made.is_complex()
    return made.to(torch.complex128) if becomes_complex else made


def _key(side: Side, name: str) -> tuple[str, ...]:
    parts = taken_by(name, side.recipes[name])
    return tuple(dict.fromkeys(part.name for part in parts))


def _features(watch: Watch, example: Example) -> Named:
    features = [value for value in watch.frontier if value is not example.tensor]
    if len(features) == 1:
        return [("features", features[0])]
    return [(f"features[{at}]", value) for at, value in enumerate(features)]


def gradients(
    points: Named, values: Mapping[str, torch.Tensor], scales: Sequence[float]
) -> dict[str, torch.Tensor]:
    """How one random combination of all points moves with every tensor; zeros where it does not.

    The first-order effect of perturbing each element of each tensor alone, in one backward pass.
    ``scales`` bring every point to a size of one; they must be the same on both sides.
    """
    leaves = {name: value for name, value in values.items() if value.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for at, ((_, point), scale) in enumerate(zip(points, scales, strict=True)):
        # Real and imaginary parts, where there are both, pull in different directions.
        real = torch.view_as_real(point.resolve_conj()) if point.is_complex() else point
        generator = torch.Generator().manual_seed(at)
        direction = torch.randn(real.numel(), generator=generator, dtype=torch.float64)
        total = total + (real.reshape(-1) * direction).sum() / (scale * real.numel() ** 0.5)
    if not total.requires_grad or not leaves:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    found = torch.autograd.grad(
        total, [*leaves.values()], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))
