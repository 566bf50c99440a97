"""The main job on real images: transfer, head, groups, optimizer; then what it was worth.

A checkpoint that knows the digits 0 to 4 goes into a deeper network for all ten digits. The same
training from fresh weights runs beside it, seed by seed. Run it with ``make demo``.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import surgery

FIXTURES = Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

from digits import DigitNet, images, split  # noqa: E402 - it lies beside the fixtures

CHECKPOINT = FIXTURES / "digits_0_to_4.safetensors"
RULES = FIXTURES / "rules" / "digits.txt"
#: The checkpoint has two blocks: the third starts from its initial values.
NEW_BLOCK = "blocks.2"
SEEDS = range(8)
EPOCHS = 15


def main() -> None:
    """Print the plan, the groups and the accuracies."""
    torch.set_num_threads(1)  # so small a network is faster on one
    show_the_steps()
    compare()


def show_the_steps() -> None:
    """Everything that is decided before training, as a person would look at it."""
    torch.manual_seed(0)
    model = DigitNet(num_classes=10, depth=3)
    print("1. What goes where\n")
    print(surgery.plan_transfer(CHECKPOINT, model, fresh=NEW_BLOCK))

    print("\n\n2. The head, the other way round: five known digits kept, five new ones added\n")
    known = DigitNet(num_classes=5, depth=2)
    surgery.transfer(CHECKPOINT, known)
    digits = [str(digit) for digit in range(10)]
    print(surgery.plan_head(known, 10, old_labels=digits[:5], new_labels=digits))

    print("\n\n3. Who learns how fast\n")
    outcome = surgery.transfer(CHECKPOINT, model, fresh=NEW_BLOCK)
    print(surgery.resolve_groups(model, RULES, transfer=outcome))


FRESH = "base optimizer=adamw lr=1e-2 wd=0.05\n:1d wd=0"
#: Column -> (whether the checkpoint goes in, the rules).
RUNS = {
    "checkpoint, lr by rule": (True, RULES),
    "checkpoint, one lr": (True, FRESH),
    "fresh weights": (False, FRESH),
}


def compare() -> None:
    """Accuracy on images that no training saw, with the checkpoint and without, by seed."""
    print(f"\n\n4. {EPOCHS} epochs on 100 images of ten digits, tested on 797 others\n")
    started = time.perf_counter()
    print("  seed  " + "  ".join(RUNS))
    columns: dict[str, list[float]] = {name: [] for name in RUNS}
    for seed in SEEDS:
        for name, (transferred, rules) in RUNS.items():
            columns[name].append(accuracy(seed, transferred, rules))
        print(f"  {seed:4}  " + "  ".join(f"{columns[n][-1]:{len(n)}.1%}" for n in RUNS))
    print("  mean  " + "  ".join(f"{statistics.mean(c):{len(n)}.1%}" for n, c in columns.items()))
    print("  s.d.  " + "  ".join(f"{statistics.stdev(c):{len(n)}.1%}" for n, c in columns.items()))
    best, _, fresh = columns.values()
    better = sum(one > other for one, other in zip(best, fresh, strict=True))
    print(f"\n  the first column beats the last in {better} of {len(SEEDS)} seeds", end="")
    print(f"  ({time.perf_counter() - started:.0f} s)")


def accuracy(seed: int, transferred: bool, rules: str | Path) -> float:
    """Share of the test images classified correctly. For one seed, all runs have the same initial
    values and the same batches.
    """
    torch.manual_seed(seed)
    model = DigitNet(num_classes=10, depth=3)
    outcome = surgery.transfer(CHECKPOINT, model, fresh=NEW_BLOCK) if transferred else None
    with warnings.catch_warnings():
        # One learning rate for what is new and what is loaded: the middle column is to show it.
        warnings.simplefilter("ignore", surgery.SurgeryWarning)
        optimizer = surgery.build_optimizer(model, rules, transfer=outcome)
    pixels, digits = images()
    _, tuning, testing = split()
    train(model, optimizer, pixels[tuning], digits[tuning], seed)
    model.eval()
    with torch.no_grad():
        predicted = model(pixels[testing]).argmax(1)
    return float((predicted == digits[testing]).float().mean())


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    seed: int,
) -> None:
    """A plain loop; the optimizer is ready as it is."""
    model.train()
    batches = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=batches).split(32):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
