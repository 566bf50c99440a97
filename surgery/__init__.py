"""Model surgery and checkpoint transfer for PyTorch: nothing silent, everything shown first.

Three values that can be looked at before anything happens:

- what goes where: :func:`plan_transfer` -> ``TransferPlan``, done by its ``apply`` and ``write``;
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
    from surgery.checkpoint import Checkpoint as Checkpoint, open_checkpoint as open_checkpoint
    from surgery.checkpoint.conversion import (
        ConversionOutcome as ConversionOutcome,
        convert as convert,
    )
    from surgery.checkpoint.writer import save as save
    from surgery.errors import SurgeryError as SurgeryError, SurgeryWarning as SurgeryWarning
    from surgery.heads import (
        HeadSwap as HeadSwap,
        plan_head as plan_head,
        replace_head as replace_head,
    )
    from surgery.networks.selection import select as select
    from surgery.proof import Proof as Proof
    from surgery.proof.verify import verify_transfer as verify_transfer
    from surgery.specs import ModelSpec as ModelSpec, TensorSpec as TensorSpec
    from surgery.training.load_state import (
        StateOutcome as StateOutcome,
        load_optimizer_state as load_optimizer_state,
        rebuild_optimizer as rebuild_optimizer,
    )
    from surgery.training.range_test import RangeTest as RangeTest, lr_range_test as lr_range_test
    from surgery.training.recorder import Recorder as Recorder
    from surgery.training.resume import (
        resume_training as resume_training,
        save_training as save_training,
    )
    from surgery.training.schedule import build_schedule as build_schedule
    from surgery.training.stages import Stages as Stages, build_stages as build_stages
    from surgery.training.unfreezing import gradual_unfreeze as gradual_unfreeze
    from surgery.transfers import (
        TransferOutcome as TransferOutcome,
        TransferPlan as TransferPlan,
        plan_transfer as plan_transfer,
        transfer as transfer,
    )
    from surgery.tuning import ParamGroups as ParamGroups, resolve_groups as resolve_groups
    from surgery.tuning.optimizer import build_optimizer as build_optimizer

__version__ = "0.1.0"

_PUBLIC = {
    "surgery.checkpoint": ("Checkpoint", "open_checkpoint"),
    "surgery.checkpoint.conversion": ("ConversionOutcome", "convert"),
    "surgery.checkpoint.writer": ("save",),
    "surgery.errors": ("SurgeryError", "SurgeryWarning"),
    "surgery.heads": ("HeadSwap", "plan_head", "replace_head"),
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

__all__ = sorted(name for names in _PUBLIC.values() for name in names)

__getattr__ = on_first_use(__name__, _PUBLIC)


def _text_of(value: object) -> str:
    from surgery.report import report_of

    return report_of(value).text()


Shown.text_of = _text_of


def __dir__() -> list[str]:
    return __all__
