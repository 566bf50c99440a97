"""Model surgery and checkpoint transfer for PyTorch: nothing silent, everything shown first.

Three values that can be looked at before anything happens:

- what goes where: :func:`plan_transfer` -> ``TransferPlan``, done by :func:`transfer`;
- what is the new head: :func:`plan_head` -> ``HeadSwap``, done by :func:`replace_head`;
- who learns how fast: :func:`resolve_groups` -> ``ParamGroups``, done by :func:`build_optimizer`.

The names below are imported on first use: ``import surgery`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint, open_checkpoint, save
    from surgery.checkpoint.conversion import ConversionOutcome, convert
    from surgery.errors import SurgeryError, SurgeryWarning
    from surgery.heads import HeadSwap, plan_head, replace_head
    from surgery.patterns import select
    from surgery.proof import Proof, verify_transfer
    from surgery.specs import ModelSpec, TensorSpec
    from surgery.training import (
        RangeTest,
        Recorder,
        Stages,
        StateOutcome,
        build_schedule,
        build_stages,
        gradual_unfreeze,
        load_optimizer_state,
        lr_range_test,
        rebuild_optimizer,
        resume_training,
        save_training,
    )
    from surgery.transfers import TransferOutcome, TransferPlan, plan_transfer, transfer
    from surgery.tuning import ParamGroups, build_optimizer, resolve_groups

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "surgery.checkpoint",
    "ConversionOutcome": "surgery.checkpoint.conversion",
    "HeadSwap": "surgery.heads",
    "ModelSpec": "surgery.specs",
    "ParamGroups": "surgery.tuning",
    "Proof": "surgery.proof",
    "RangeTest": "surgery.training",
    "Recorder": "surgery.training",
    "Stages": "surgery.training",
    "StateOutcome": "surgery.training",
    "SurgeryError": "surgery.errors",
    "SurgeryWarning": "surgery.errors",
    "TensorSpec": "surgery.specs",
    "TransferOutcome": "surgery.transfers",
    "TransferPlan": "surgery.transfers",
    "build_optimizer": "surgery.tuning",
    "build_schedule": "surgery.training",
    "build_stages": "surgery.training",
    "convert": "surgery.checkpoint.conversion",
    "gradual_unfreeze": "surgery.training",
    "load_optimizer_state": "surgery.training",
    "lr_range_test": "surgery.training",
    "open_checkpoint": "surgery.checkpoint",
    "plan_head": "surgery.heads",
    "plan_transfer": "surgery.transfers",
    "rebuild_optimizer": "surgery.training",
    "replace_head": "surgery.heads",
    "resolve_groups": "surgery.tuning",
    "resume_training": "surgery.training",
    "save": "surgery.checkpoint",
    "save_training": "surgery.training",
    "select": "surgery.patterns",
    "transfer": "surgery.transfers",
    "verify_transfer": "surgery.proof",
}

__all__ = [
    "Checkpoint",
    "ConversionOutcome",
    "HeadSwap",
    "ModelSpec",
    "ParamGroups",
    "Proof",
    "RangeTest",
    "Recorder",
    "Stages",
    "StateOutcome",
    "SurgeryError",
    "SurgeryWarning",
    "TensorSpec",
    "TransferOutcome",
    "TransferPlan",
    "build_optimizer",
    "build_schedule",
    "build_stages",
    "convert",
    "gradual_unfreeze",
    "load_optimizer_state",
    "lr_range_test",
    "open_checkpoint",
    "plan_head",
    "plan_transfer",
    "rebuild_optimizer",
    "replace_head",
    "resolve_groups",
    "resume_training",
    "save",
    "save_training",
    "select",
    "transfer",
    "verify_transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
