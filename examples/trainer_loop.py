"""Fine-tuning with the transformers Trainer: optimizer and schedule go in, a callback stages it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

import surgery

FIXTURES = Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

from digits import DigitNet, accuracy, images, split  # noqa: E402 - it lies beside the fixtures

CHECKPOINT = FIXTURES / "digits_0_to_4.safetensors"
RULES = FIXTURES / "rules" / "finetune.txt"
EPOCHS = 12
#: Nothing stays behind, and nothing is shown but the stages.
QUIET = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}


class WithLoss(torch.nn.Module):
    """What Trainer calls a model: its loss comes out first."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixels)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Unfreezing(TrainerCallback):
    """Starts each epoch's stage; ``state.epoch`` counts from 0, in a resumed run too."""

    def __init__(self, stages: Any) -> None:
        self.stages = stages

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        print(self.stages.start_epoch(round(state.epoch)))


def main() -> None:
    """Train on 100 images of ten digits, from a checkpoint that knows five; test on others."""
    torch.set_num_threads(1)  # so small a network is faster on one
    torch.manual_seed(0)
    pixels, digits = images()
    _, tuning, _ = split()
    pairs = zip(pixels[tuning], digits[tuning], strict=True)
    model = DigitNet(num_classes=10)
    outcome = surgery.transfer(CHECKPOINT, model, fresh="blocks.2")  # the checkpoint has two
    optimizer = surgery.build_optimizer(model, RULES, transfer=outcome)
    schedule = surgery.build_schedule(optimizer, RULES, epochs=EPOCHS, steps_per_epoch=4)
    stages = surgery.build_stages(model, RULES, optimizer=optimizer, transfer=outcome)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=25, use_cpu=True, **QUIET
        )
        trainer = Trainer(
            WithLoss(model),
            arguments,
            train_dataset=[{"pixels": x, "labels": y} for x, y in pairs],
            optimizers=(optimizer, schedule),
            callbacks=[Unfreezing(stages)],
        )
        trainer.train()
    print(f"{accuracy(model):.1%} of other images classified correctly")


if __name__ == "__main__":
    main()
