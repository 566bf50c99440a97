"""Fine-tuning in a plain loop: transfer, groups, schedule, stages, and a record of every step.

``lightning_loop.py`` and ``trainer_loop.py`` do the same with Lightning and transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import surgery

FIXTURES = Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

from digits import DigitNet, accuracy, images, split  # noqa: E402 - it lies beside the fixtures

CHECKPOINT = FIXTURES / "digits_0_to_4.safetensors"
RULES = FIXTURES / "rules" / "finetune.txt"
EPOCHS = 12


def main() -> None:
    """Train on 100 images of ten digits, from a checkpoint that knows five; test on others."""
    torch.set_num_threads(1)  # so small a network is faster on one
    torch.manual_seed(0)
    pixels, digits = images()
    _, tuning, _ = split()
    x, y = pixels[tuning], digits[tuning]

    model = DigitNet(num_classes=10)
    outcome = surgery.transfer(CHECKPOINT, model, fresh="blocks.2")  # the checkpoint has two
    optimizer = surgery.build_optimizer(model, RULES, transfer=outcome)
    schedule = surgery.build_schedule(optimizer, RULES, epochs=EPOCHS, steps_per_epoch=4)
    stages = surgery.build_stages(model, RULES, optimizer=optimizer, transfer=outcome)
    recorder = surgery.Recorder(optimizer)

    for epoch in range(EPOCHS):
        change = stages.start_epoch(epoch)
        model.train()
        for batch in torch.randperm(len(x)).split(25):
            optimizer.zero_grad()
            loss = cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            record = recorder.step(loss=loss)
            schedule.step()
        print(f"{change}; loss {record.loss:.2f}, the head's lr {max(record.rates):.2g}")

    print(f"{accuracy(model):.1%} of other images classified correctly")


if __name__ == "__main__":
    main()
