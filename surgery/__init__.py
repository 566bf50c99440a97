"""Model surgery and checkpoint transfer for PyTorch: nothing silent, everything shown first.

Four values that can be looked at before anything happens:

- what goes where: :func:`plan_transfer` -> ``TransferPlan``, done by its ``apply`` and ``write``;
- are these one network: :func:`compare` -> ``Comparison``, the mapping or where they part;
- what is the new head: :func:`plan_head` -> ``HeadSwap``, done by its ``apply``;
- who learns how fast: :func:`resolve_groups` -> ``ParamGroups``, done by :func:`build_optimizer`.

:func:`transfer` and :func:`replace_head` plan and do it at once.

The names below are imported on first use: ``import surgery`` alone does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.lazy import on_first_use
from surgery.showing import Shown

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint, open_checkpoint
    from surgery.checkpoint.conversion import ConversionOutcome, convert
    from surgery.checkpoint.writer import save
    from surgery.errors import SurgeryError, SurgeryWarning
    from surgery.heads import HeadSwap, plan_head, replace_head
    from surgery.matching.code.comparison import Comparison, compare
    from surgery.networks.selection import select
    from surgery.proof import Proof
    from surgery.proof.verify import verify_transfer
    from surgery.specs import ModelSpec, TensorSpec
    from surgery.training.load_state import (
        StateOutcome,
        load_optimizer_state,
        rebuild_optimizer,
    )
    from surgery.training.range_test import RangeTest, lr_range_test
    from surgery.training.recorder import Recorder
    from surgery.training.resume import resume_training, save_training
    from surgery.training.schedule import build_schedule
    from surgery.training.stages import Stages, build_stages
    from surgery.training.unfreezing import gradual_unfreeze
    from surgery.transfers import TransferOutcome, TransferPlan, plan_transfer, transfer
    from surgery.tuning import ParamGroups, resolve_groups
    from surgery.tuning.optimizer import build_optimizer

__version__ = "0.1.0"

_PUBLIC = {
    "surgery.checkpoint": ("Checkpoint", "open_checkpoint"),
    "surgery.checkpoint.conversion": ("ConversionOutcome", "convert"),
    "surgery.checkpoint.writer": ("save",),
    "surgery.errors": ("SurgeryError", "SurgeryWarning"),
    "surgery.heads": ("HeadSwap", "plan_head", "replace_head"),
    "surgery.matching.code.comparison": ("Comparison", "compare"),
    "surgery.networks.selection": ("select",),
    "surgery.proof": ("Proof",),
    "surgery.proof.verify": ("verify_transfer",),
    "surgery.specs": ("ModelSpec", "TensorSpec"),
    "surgery.training.load_state": ("StateOutcome", "load_optimizer_state", "rebuild_optimizer"),
    "surgery.training.range_test": ("RangeTest", "lr_range_test"),
    "surgery.training.recorder": ("Recorder",),
    "surgery.training.resume": ("resume_training", "save_training"),
    "surgery.training.schedule": ("build_schedule",),
    "surgery.training.stages": ("Stages", "build_stages"),
    "surgery.training.unfreezing": ("gradual_unfreeze",),
    "surgery.transfers": ("TransferOutcome", "TransferPlan", "plan_transfer", "transfer"),
    "surgery.tuning": ("ParamGroups", "resolve_groups"),
    "surgery.tuning.optimizer": ("build_optimizer",),
}

__all__ = [
    "Checkpoint",
    "Comparison",
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
    "compare",
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


__getattr__ = on_first_use(__name__, _PUBLIC)


def _text_of(value: object) -> str:
    from surgery.report import report_of

    return report_of(value).text()


Shown.text_of = _text_of


def __dir__() -> list[str]:
    return sorted(__all__)
