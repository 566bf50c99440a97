"""A run in one file: safetensors, with everything that is no tensor as JSON in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint import Checkpoint, open_checkpoint
from surgery.checkpoint.writer import save
from surgery.errors import CheckpointError
from surgery.training.generators import check_generators
from surgery.training.optimizer_state import OptimizerState
from surgery.training.plain import packed, unpacked
from surgery.wording import printable

_KEY = "surgery.training"
_VERSION = 1
_SUFFIX = ".safetensors"
_MODEL = "model."


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stood, in the words of who saved it. ``rules`` are the text of its rules."""

    epoch: int | None
    step: int | None
    extra: Any
    rules: str | None


@dataclass(frozen=True, slots=True)
class TrainingFile(TrainingState):
    """All that a run needs to go on. Names are unwrapped.

    ``model`` is its state dict, whose values need not be tensors; ``schedule`` and ``stages`` are
    their state dicts, None where the run had none; ``random`` are the states of torch's
    generators. ``schedule_kind`` is the schedule's class, None where there is none or an older
    file does not say it.
    """

    model: Mapping[str, Any]
    optimizer: OptimizerState
    schedule: Any
    stages: Any
    random: dict[str, Any]
    schedule_kind: str | None


#: The parts that are plain values with tensors in them.
_PLAIN = ("schedule", "stages", "random", "epoch", "step", "extra")


def is_training_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name says so; :func:`read_training_file` looks inside."""
    return Path(path).suffix.lower() == _SUFFIX


def write_training_file(path: str | os.PathLike[str], run: TrainingFile) -> Path:
    """Write it in one step: the old file stays until the new one is whole.

    Raises StateRefused for a value that is not plain, and CheckpointError.
    """
    if not is_training_file(path):
        raise CheckpointError(
            f"{printable(path)}: a training file ends in {_SUFFIX}; nothing in one is ever executed"
        )
    tensors: dict[str, torch.Tensor] = {}
    weights = {key: value for key, value in run.model.items() if isinstance(value, torch.Tensor)}
    others = {key: value for key, value in run.model.items() if key not in weights}
    record = {
        "version": _VERSION,
        "weights": list(weights),  # the format sorts tensors by size
        "others": packed(others, "others", tensors),
        "optimizer": {
            "kind": run.optimizer.kind,
            "groups": packed(list(run.optimizer.groups), "groups", tensors),
            "entries": packed(dict(run.optimizer.entries), "optimizer", tensors),
        },
        "schedule_kind": run.schedule_kind,
        "rules": run.rules,
        **{name: packed(getattr(run, name), name, tensors) for name in _PLAIN},
    }
    named = {f"{_MODEL}{name}": tensor for name, tensor in weights.items()}
    return save({**named, **tensors}, Path(path), metadata={_KEY: json.dumps(record)})


def read_training_file(path: str | os.PathLike[str]) -> TrainingFile:
    """The inverse of :func:`write_training_file`. Raises CheckpointError."""
    checkpoint = open_checkpoint(path)
    if _KEY not in checkpoint.metadata:
        raise CheckpointError(
            f"{printable(path)}: not written by save_training: it holds weights and no optimizer"
        )
    try:
        return _read(json.loads(checkpoint.metadata[_KEY]), checkpoint)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{printable(path)}: its record of the training is damaged "
            f"({type(error).__name__}: {printable(error)})"
        ) from error


def _read(record: Mapping[str, Any], checkpoint: Checkpoint) -> TrainingFile:
    if record["version"] != _VERSION:
        raise ValueError(f"version {record['version']} of the format, expected {_VERSION}")
    if not isinstance(record["rules"], str | None):
        raise TypeError("rules that are no text")
    tensors = checkpoint.state_dict()
    plain = {name: unpacked(record[name], tensors) for name in _PLAIN}
    if not isinstance(plain["schedule"], Mapping | None):
        raise TypeError("a schedule that is no mapping")
    plain["random"] = check_generators(plain["random"])
    weights = {name: tensors[f"{_MODEL}{name}"] for name in record["weights"]}
    groups = [dict(group) for group in unpacked(record["optimizer"]["groups"], tensors)]
    entries = unpacked(record["optimizer"]["entries"], tensors)
    return TrainingFile(
        model=weights | unpacked(record["others"], tensors),
        optimizer=OptimizerState(
            str(record["optimizer"]["kind"]),
            tuple({**group, "param_names": [*map(str, group["param_names"])]} for group in groups),
            {str(name): dict(entry) for name, entry in entries.items() if entry},
        ),
        rules=record["rules"],
        schedule_kind=record.get("schedule_kind"),
        **plain,
    )
