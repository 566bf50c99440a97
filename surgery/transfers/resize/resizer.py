"""What a resizer is: a decision on names and shapes, and the computation that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from surgery.errors import SurgeryError, did_you_mean
from surgery.patterns import Selector
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
class Case:
    """One source tensor and one target tensor, and all that a decision may look at.

    ``source_name`` is what the mapping's lines call the source, and ``sources`` are by such
    names. ``widths`` are pairs of sizes (source, target) that the two networks have for one
    width: some matched tensor produces it (axis 0) and some matched tensor consumes it. ``named``
    says that the resizer was named for this very tensor.
    """

    source: TensorSpec
    target: TensorSpec
    source_name: str
    sources: Mapping[str, TensorSpec]
    targets: Mapping[str, TensorSpec]
    types: tuple[str, ...]
    widths: frozenset[tuple[int, int]]
    settings: Settings
    named: bool

    def differs_in(self, *axes: int) -> bool:
        """Whether the shapes differ, and on none but these axes."""
        old, new = self.source.shape, self.target.shape
        if old == new or len(old) != len(new):
            return False
        return all(old[axis] == new[axis] or axis in axes for axis in range(len(old)))


#: (source, target, settings) -> new values of the target's shape. ``target`` has that shape, holds
#: the target's own values where the method keeps some of them, and may be overwritten.
Compute: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Settings], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Resizer:
    """``decide`` is pure; what it says where the resizer does not fit is empty for a tensor of
    another kind than ``purpose`` says. ``compute`` goes by the settings that it gave; without it
    the values stay as they are.

    ``options`` are the settings that a user may give, each with the reader of its text.
    ``automatic`` resizers are tried on tensors that do not fit; the others wait to be named.
    """

    name: str
    purpose: str
    reference: str
    decide: Callable[[Case], Fit | str]
    compute: Compute | None = None
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


@dataclass(frozen=True, slots=True)
class Resize:
    """What somebody asked for: for the target tensors that ``selector`` selects, or all where it
    is None, by ``resizer``, or the first that fits where it is None.
    """

    text: str
    selector: Selector | None = None
    resizer: Resizer | None = None
    settings: Settings = field(default_factory=dict)

    @property
    def is_depth(self) -> bool:
        """Whether it is about whole layers."""
        return self.resizer is not None and self.resizer.name == "depth"

    @property
    def is_exact(self) -> bool:
        """Whether it names both the tensors and the method: then it is taken at its word."""
        return self.selector is not None and self.resizer is not None


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


def grid_text(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
