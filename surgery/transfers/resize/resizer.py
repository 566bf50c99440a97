"""What a resizer is: a decision on names and shapes, and the computation that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from surgery.errors import SurgeryError, did_you_mean
from surgery.specs import TensorSpec
from surgery.transfers.step import Setting

Settings: TypeAlias = Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Fit:
    """The resizer applies. ``reason`` says what it does and what was assumed; ``settings`` are
    all that the computation needs beside the tensors; ``initial`` as in
    :class:`~surgery.transfers.step.Method`.
    """

    reason: str
    settings: Settings = field(default_factory=dict)
    initial: int = 0
    reference: str = ""


@dataclass(frozen=True, slots=True)
class NoFit:
    """It does not apply, and why. ``near`` says that the tensor is of the resizer's kind, so that
    the reason is worth telling.
    """

    why: str
    near: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One source tensor and one target tensor, and all that a decision may look at.

    ``source_name`` is what the mapping's lines call the source, and ``sources`` are by such
    names. ``widths`` are pairs of sizes (source, target) that the two networks have for one
    width: some matched tensor produces it (axis 0) and some matched tensor consumes it. ``last``
    is the path of the target's last layer, in the order of its state dict.
    """

    source: TensorSpec
    target: TensorSpec
    source_name: str
    sources: Mapping[str, TensorSpec]
    targets: Mapping[str, TensorSpec]
    types: tuple[str, ...] = ()
    widths: frozenset[tuple[int, int]] = frozenset()
    last: str = ""
    settings: Settings = field(default_factory=dict)
    named: bool = False

    @property
    def sides(self) -> tuple[tuple[str, Mapping[str, TensorSpec]], ...]:
        """(name, all specs by name) of the source and of the target."""
        return ((self.source_name, self.sources), (self.target.name, self.targets))


#: (the source's values, the target's shape, settings, the target's own values) -> new values.
Compute: TypeAlias = Callable[
    [torch.Tensor, tuple[int, ...], Settings, torch.Tensor | None], torch.Tensor
]


@dataclass(frozen=True, slots=True)
class Resizer:
    """``decide`` is pure. ``compute`` takes the source's values, the target's shape, the
    settings that ``decide`` gave and the target's initial values (None unless some are kept),
    and returns new values; it changes no argument.

    ``options`` are the settings that a user may give, each with the reader of its text.
    ``automatic`` resizers are tried on tensors that do not fit; the others wait to be named.
    """

    name: str
    reference: str
    decide: Callable[[Case], Fit | NoFit]
    compute: Compute
    options: Mapping[str, Callable[[str], Setting]] = field(default_factory=dict)
    automatic: bool = True

    def read(self, given: Mapping[str, str]) -> Settings:
        """The settings that a user gave. Raises SurgeryError for those that it does not have."""
        read: dict[str, Setting] = {}
        for key, text in given.items():
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                near = did_you_mean(key, self.options)
                raise SurgeryError(f"{self.name} has no setting {key!r}, only {known}{near}")
            try:
                read[key] = self.options[key](text)
            except ValueError as error:
                raise SurgeryError(f"{self.name}: {key}={text!r} is {error}") from error
        return read


def one_of(*words: str) -> Callable[[str], str]:
    """The reader of a setting that is one of ``words``."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"none of {', '.join(words)}{did_you_mean(text, words)}")
        return text

    return read


def count(text: str) -> int:
    """The reader of a whole number from 0."""
    if not text.isdecimal():
        raise ValueError("no whole number")
    return int(text)


def grid(text: str) -> tuple[int, int]:
    """The reader of ``ROWSxCOLUMNS``."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ValueError("no grid; expected ROWSxCOLUMNS, such as 14x14")
    return int(match[1]), int(match[2])


def setting_text(value: object) -> str:
    """A setting as it would be typed: ``14x14`` for a grid."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def grid_text(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def surroundings(name: str, specs: Mapping[str, TensorSpec]) -> Iterator[list[TensorSpec]]:
    """The tensors below every ancestor of ``name``, the nearest ancestor first."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        start = f"{path}." if path else ""
        yield [spec for other, spec in specs.items() if other.startswith(start) and other != name]
