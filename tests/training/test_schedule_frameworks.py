"""A schedule under the loops of others, who decide when it is stepped and by what."""

import pytest
import torch
from torch.nn import functional as F

import surgery

pytestmark = pytest.mark.filterwarnings("ignore")

RULES = "base optimizer=sgd\n0 lr=1e-6\n2 lr=1e-2\n"
X, Y = torch.randn(12, 4), torch.randint(0, 3, (12,))


def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))


class TestLightning:
    @pytest.fixture
    def fit(self, tmp_path):
        lightning = pytest.importorskip("lightning")

        class Module(lightning.LightningModule):
            def __init__(self, line: str) -> None:
                super().__init__()
                self.net, self.line, self.seen = network(), line, []

            def training_step(self, batch, index):
                self.seen.append([group["lr"] for group in self.optimizers().param_groups])
                loss = F.cross_entropy(self.net(batch[0]), batch[1])
                self.log("loss", 1.0, on_epoch=True)
                return loss

            def configure_optimizers(self):
                optimizer = surgery.build_optimizer(self.net, RULES)
                schedule = surgery.build_schedule(optimizer, self.line, epochs=4, steps_per_epoch=3)
                return {
                    "optimizer": optimizer,
                    "lr_scheduler": {
                        "scheduler": schedule,
                        "interval": schedule.by,
                        "monitor": "loss",
                    },
                }

        def fit(line: str):
            module = Module(line)
            lightning.Trainer(
                max_epochs=4,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
            ).fit(module, torch.utils.data.DataLoader(list(zip(X, Y, strict=True)), batch_size=4))
            return module.seen

        return fit

    def test_by_epoch(self, fit):
        seen = fit("schedule exponential gamma=0.5")
        assert [rate for _, rate in seen[::3]] == pytest.approx([1e-2, 5e-3, 2.5e-3, 1.25e-3])
        assert all(high / low == pytest.approx(1e4, rel=1e-12) for low, high in seen)

    def test_by_step(self, fit):
        seen = fit("schedule cosine by=step")
        assert len({rate for _, rate in seen}) == 12

    def test_a_plateau_is_handed_its_metric(self, fit):
        seen = fit("schedule plateau patience=0")
        assert [rate for _, rate in seen[::3]] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])


class TestTrainer:
    @pytest.fixture
    def train(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("accelerate")

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = network()

            def forward(self, x, labels):
                logits = self.net(x)
                return {"loss": F.cross_entropy(logits, labels), "logits": logits}

        def train(line: str, **options):
            model = Model()
            optimizer = surgery.build_optimizer(model.net, RULES)
            schedule = surgery.build_schedule(optimizer, line, epochs=2, steps_per_epoch=3)
            data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
            arguments = transformers.TrainingArguments(
                output_dir=str(tmp_path),
                num_train_epochs=2,
                per_device_train_batch_size=4,
                use_cpu=True,
                report_to=[],
                logging_steps=1,
                disable_tqdm=True,
                **options,
            )
            trainer = transformers.Trainer(
                model=model,
                args=arguments,
                train_dataset=data,
                eval_dataset=data,
                optimizers=(optimizer, schedule),
            )
            trainer.train()
            return trainer, schedule

        return train

    def test_by_step(self, train):
        _, schedule = train("schedule cosine by=step floor=0.1", save_strategy="no")
        assert schedule.last_epoch == 6
        assert schedule.get_last_lr() == pytest.approx([1e-7, 1e-3])

    def test_its_own_checkpoints_hold_the_schedule(self, train, tmp_path):
        train("schedule cosine by=step floor=0.1", save_strategy="steps", save_steps=4)
        state = torch.load(tmp_path / "checkpoint-4" / "scheduler.pt", weights_only=True)
        assert state["position"] == 4

    def test_a_plateau_is_handed_its_metric(self, train):
        _, schedule = train(
            "schedule plateau",
            save_strategy="no",
            eval_strategy="epoch",
            metric_for_best_model="loss",
        )
        assert schedule.last_epoch == 2
