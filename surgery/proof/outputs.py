"""What a network returns, whatever it wraps it in: a tensor, tuples, mappings, dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

#: What the main output is called, where an output has names: transformers, then torchvision.
_MAIN = ("logits", "last_hidden_state", "out")


def tensors_in(output: Any, name: str = "output") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of real or complex numbers in an output, each with where it is."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() or output.is_complex():
            yield name, output
    elif isinstance(output, Mapping):  # transformers' ModelOutput is one
        for key, value in output.items():
            yield from tensors_in(value, str(key))
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from tensors_in(getattr(output, field.name), field.name)
    elif isinstance(output, list | tuple):
        for at, value in enumerate(output):
            yield from tensors_in(value, f"{name}[{at}]")


def main_output(outputs: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    """The one that others are beside: by its name, else the first."""
    named = dict(outputs)
    for name in _MAIN:
        if name in named:
            return [(name, named[name])]
    return outputs[:1]
