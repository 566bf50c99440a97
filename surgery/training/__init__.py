"""A run: schedule, stages, and how it goes on after an interruption or a change of course."""

from surgery.training.carry import StateOutcome, load_optimizer_state, rebuild_optimizer
from surgery.training.curve import ScheduleCurve, schedule_curve
from surgery.training.range_test import RangeTest, lr_range_test
from surgery.training.recorder import Recorder
from surgery.training.recording import Recording, StepRecord
from surgery.training.resume import TrainingState, resume_training, save_training
from surgery.training.schedule import build_schedule
from surgery.training.stages import StageChange, Stages, build_stages
from surgery.training.unfreezing import gradual_unfreeze

__all__ = [
    "RangeTest",
    "Recorder",
    "Recording",
    "ScheduleCurve",
    "StageChange",
    "Stages",
    "StateOutcome",
    "StepRecord",
    "TrainingState",
    "build_schedule",
    "build_stages",
    "gradual_unfreeze",
    "load_optimizer_state",
    "lr_range_test",
    "rebuild_optimizer",
    "resume_training",
    "save_training",
    "schedule_curve",
]
