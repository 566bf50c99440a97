"""A run in one file: safetensors, with everything that is no tensor as JSON in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint import Checkpoint, open_checkpoint, save
from surgery.checkpoint.wording import shown
from surgery.errors import CheckpointError
from surgery.training.plain import Packer, unpacked

if TYPE_CHECKING:
    import torch

_KEY = "surgery.training"
_VERSION = 1
_SUFFIX = ".safetensors"
_MODEL = "model."


@dataclass(frozen=True, slots=True)
class OptimizerRecord:
    """An optimizer by parameter name.

    ``groups`` are its groups in order, ``param_names`` in the place of the parameters;
    ``entries`` are name to key to value.
    """

    kind: str
    groups: tuple[Mapping[str, Any], ...]
    entries: Mapping[str, Mapping[str, Any]]

    @property
    def named_groups(self) -> list[dict[str, Any]]:
        """The groups as a state dict has them, names for positions."""
        return [{**group, "params": group["param_names"]} for group in self.groups]


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """All that a run needs to go on. Names are unwrapped.

    ``weights`` are the model's state dict, ``others`` its entries that are no tensors;
    ``schedule`` and ``stages`` are their state dicts, None where the run had none; ``random``
    are the states of torch's generators. ``schedule_kind`` is the schedule's class, None where
    there is none or an older file does not say it.
    """

    weights: Mapping[str, torch.Tensor]
    others: Mapping[str, Any]
    optimizer: OptimizerRecord
    schedule: Any
    stages: Any
    rules: str | None
    epoch: int | None
    step: int | None
    extra: Any
    random: Mapping[str, Any] = field(default_factory=dict)
    schedule_kind: str | None = None


def is_training_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name says so; :func:`read_training_file` looks inside."""
    return Path(path).suffix.lower() == _SUFFIX


def write_training_file(path: str | os.PathLike[str], run: TrainingFile) -> Path:
    """Write it in one step: the old file stays until the new one is whole.

    Raises StateRefused for a value that is not plain, and CheckpointError.
    """
    if not is_training_file(path):
        raise CheckpointError(
            f"{shown(path)}: a training file ends in {_SUFFIX}; nothing in one is ever executed"
        )
    packer = Packer()
    record = {
        "version": _VERSION,
        "weights": list(run.weights),  # the format sorts tensors by size
        "optimizer": {
            "kind": run.optimizer.kind,
            "groups": packer.packed(list(run.optimizer.groups), "groups"),
            "entries": packer.packed(dict(run.optimizer.entries), "optimizer"),
        },
        "others": packer.packed(dict(run.others), "others"),
        "schedule": packer.packed(run.schedule, "schedule"),
        "schedule_kind": run.schedule_kind,
        "stages": packer.packed(run.stages, "stages"),
        "rules": run.rules,
        "epoch": packer.packed(run.epoch, "epoch"),
        "step": packer.packed(run.step, "step"),
        "extra": packer.packed(run.extra, "extra"),
        "random": packer.packed(dict(run.random), "random"),
    }
    weights = {f"{_MODEL}{name}": tensor for name, tensor in run.weights.items()}
    return save({**weights, **packer.tensors}, Path(path), metadata={_KEY: json.dumps(record)})


def read_training_file(path: str | os.PathLike[str]) -> TrainingFile:
    """The inverse of :func:`write_training_file`. Raises CheckpointError."""
    checkpoint = open_checkpoint(path)
    if _KEY not in checkpoint.metadata:
        raise CheckpointError(
            f"{shown(path)}: not written by save_training: it holds weights and no optimizer"
        )
    try:
        return _read(json.loads(checkpoint.metadata[_KEY]), checkpoint)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{shown(path)}: its record of the training is damaged "
            f"({type(error).__name__}: {shown(error)})"
        ) from error


def _read(record: Mapping[str, Any], checkpoint: Checkpoint) -> TrainingFile:
    if record["version"] != _VERSION:
        raise ValueError(f"version {record['version']} of the format, expected {_VERSION}")
    if not isinstance(record["rules"], str | None):
        raise TypeError("rules that are no text")
    tensors = checkpoint.state_dict()
    return TrainingFile(
        weights={name: tensors[f"{_MODEL}{name}"] for name in record["weights"]},
        others=dict(unpacked(record["others"], tensors)),
        optimizer=_read_optimizer(record["optimizer"], tensors),
        schedule=unpacked(record["schedule"], tensors),
        stages=unpacked(record["stages"], tensors),
        rules=record["rules"],
        epoch=unpacked(record["epoch"], tensors),
        step=unpacked(record["step"], tensors),
        extra=unpacked(record["extra"], tensors),
        random=_read_random(unpacked(record["random"], tensors)),
        schedule_kind=record.get("schedule_kind"),
    )


def _read_optimizer(
    record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> OptimizerRecord:
    groups = [dict(group) for group in unpacked(record["groups"], tensors)]
    entries = unpacked(record["entries"], tensors)
    return OptimizerRecord(
        str(record["kind"]),
        tuple({**group, "param_names": [*map(str, group["param_names"])]} for group in groups),
        {str(name): dict(entry) for name, entry in entries.items()},
    )


def _read_random(states: Mapping[str, Any]) -> dict[str, Any]:
    """Generators crash on anything but bytes of their own length."""
    import torch

    cpu = states["cpu"]
    gpus = list(states["cuda"])
    if cpu.shape != torch.get_rng_state().shape or {cpu.dtype, *(g.dtype for g in gpus)} != {
        torch.uint8
    }:
        raise ValueError("a random state of another kind")
    return {"cpu": cpu, "cuda": gpus}
