"""Fine-tuning with Lightning: rules make its optimizer and schedule, a callback drives the stages.

See ``plain_loop.py`` for the same without a framework.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import surgery

FIXTURES = Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

from digits import DigitNet, accuracy, images, split  # noqa: E402 - it lies beside the fixtures

CHECKPOINT = FIXTURES / "digits_0_to_4.safetensors"
RULES = FIXTURES / "rules" / "finetune.txt"
EPOCHS = 12
#: Nothing stays behind, and nothing is shown but the stages.
QUIET = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class Tuning(lightning.LightningModule):
    """A network with the checkpoint in it, and how it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.model = DigitNet(num_classes=10)
        # The checkpoint has two blocks.
        self.outcome = surgery.transfer(CHECKPOINT, self.model, fresh="blocks.2")

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = surgery.build_optimizer(self.model, RULES, transfer=self.outcome)
        steps = int(self.trainer.estimated_stepping_batches) // EPOCHS
        schedule = surgery.build_schedule(optimizer, RULES, epochs=EPOCHS, steps_per_epoch=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Unfreezing(lightning.Callback):
    """Starts each epoch's stage; Lightning counts from 0 and knows the epoch of a resumed run."""

    def on_fit_start(self, trainer: lightning.Trainer, module: Tuning) -> None:
        self.stages = surgery.build_stages(module.model, RULES, transfer=module.outcome)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Tuning) -> None:
        print(self.stages.start_epoch(trainer.current_epoch))


def main() -> None:
    """Train on 100 images of ten digits, from a checkpoint that knows five; test on others."""
    torch.set_num_threads(1)  # so small a network is faster on one
    lightning.seed_everything(0, verbose=False)
    pixels, digits = images()
    _, tuning, _ = split()
    loader = DataLoader(TensorDataset(pixels[tuning], digits[tuning]), batch_size=25, shuffle=True)
    module = Tuning()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", callbacks=[Unfreezing()], **QUIET
    )
    trainer.fit(module, loader)

    print(f"{accuracy(module.model):.1%} of other images classified correctly")


if __name__ == "__main__":
    main()
