import math
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from tiny_models import TinyNet, randomise, same_bits, snapshot
from torch import nn

import surgery
from surgery.errors import TrainingError
from surgery.training.range_test import RangeTest, lr_range_test
from surgery.training.schedule import build_schedule

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RULES = "base lr=1e-4 wd=0.01\nblocks lr=1e-5\nstem freeze\nfc lr=1e-3\nbn unfreeze@2"


def a_step(model, dropout=0.1):
    """Forward and backward with everything that draws random numbers."""

    def step_fn():
        keep = torch.rand(IMAGES.shape) > dropout
        noise = random.random() + np.random.random()
        loss = (model(IMAGES * keep) - noise).square().mean()
        loss.backward()
        return loss

    return step_fn


def bits(value):
    """Tensors, wherever they are, as something that compares bit for bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {key if isinstance(key, str) else id(key): bits(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(one) for one in value]
    return value


def everything(model, optimizer):
    """All that the test promises to leave alone."""
    return deepcopy(
        {
            "model": bits(snapshot(model)),
            "grads": {n: (p.requires_grad, bits(p.grad)) for n, p in model.named_parameters()},
            "modes": {path: module.training for path, module in model.named_modules()},
            "state": bits(dict(optimizer.state)),
            "groups": bits(optimizer.param_groups),
            "random": (random.getstate(), bits(torch.get_rng_state()), _numpy_state()),
        }
    )


def _numpy_state():
    kind, keys, *rest = np.random.get_state()
    return kind, keys.tobytes(), rest


@pytest.fixture(autouse=True)
def one_thread():
    """Passes this small wait for their threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


OPTIMIZERS = [
    ("adamw", {}),
    ("adamw", {"amsgrad": True, "foreach": True}),
    ("adamw", {"fused": True}),
    ("sgd", {"momentum": 0.9}),
    ("rmsprop", {"centered": True}),
    ("timm:lamb", {}),
    ("surgery.optim:LayerAdaptiveAdam", {}),
]


class TestRestores:
    @pytest.mark.parametrize("warm", [False, True], ids=["no state yet", "with state"])
    @pytest.mark.parametrize(("name", "keys"), OPTIMIZERS)
    def test_everything_bit_for_bit(self, name, keys, warm):
        model = randomise(TinyNet())
        optimizer = surgery.build_optimizer(model, RULES, optimizer=name, **keys)
        if warm:
            for _ in range(3):
                a_step(model)()
                optimizer.step()  # gradients stay, and add up
        model.blocks[1].eval()
        before = everything(model, optimizer)
        lr_range_test(model, optimizer, a_step(model), steps=12, highest=0.1)
        assert everything(model, optimizer) == before
        assert bool(optimizer.state) is warm

    def test_training_goes_on_as_if_nothing_had_been(self):
        runs = []
        for tested in (False, True):
            torch.manual_seed(0), random.seed(0), np.random.seed(0)
            model = TinyNet()
            optimizer = surgery.build_optimizer(model, RULES, optimizer="adamw")
            line = "schedule exponential gamma=0.9 by=step"
            schedule = build_schedule(optimizer, line, epochs=1, steps_per_epoch=6)
            for _ in range(6):
                optimizer.zero_grad()
                a_step(model)()
                optimizer.step()
                schedule.step()
                if tested:
                    lr_range_test(model, optimizer, a_step(model), steps=5)
            runs.append(snapshot(model))
        assert same_bits(*runs)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_where_step_fn_raises(self, error):
        model = randomise(TinyNet())
        optimizer = surgery.build_optimizer(model, RULES)
        step_fn, calls = a_step(model), []

        def fails():
            calls.append(step_fn())
            if len(calls) == 5:
                model.eval()
                model.requires_grad_(False)
                raise error("out of memory")

        def five_then_fail():
            fails()
            return calls[-1]

        before = everything(model, optimizer)
        with pytest.raises(error, match="out of memory"):
            lr_range_test(model, optimizer, five_then_fail)
        assert len(calls) == 5
        assert everything(model, optimizer) == before

    def test_objects_stay_the_same_objects(self):
        class Moving(nn.Module):
            """A buffer that is another object after each pass, and one that cannot be written."""

            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(3))
                self.register_buffer("mean", torch.zeros(3), persistent=False)
                self.register_buffer("wide", torch.ones(1).expand(3))

            def forward(self):
                self.mean = self.mean + self.weight.detach()
                return (self.weight * self.wide).square().sum()

        model = Moving()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model().backward()
        optimizer.step()
        kept = (model.mean, model.weight.grad, optimizer.param_groups[0], optimizer.state)
        values = bits(list(kept))

        def step_fn():
            loss = model()
            loss.backward()
            return loss

        lr_range_test(model, optimizer, step_fn, steps=5)
        now = (model.mean, model.weight.grad, optimizer.param_groups[0], optimizer.state)
        assert all(one is other for one, other in zip(kept, now, strict=True))
        assert bits(list(now)) == values

    def test_held_norms_stay_held(self):
        model = TinyNet()
        optimizer = surgery.build_optimizer(model, "base lr=0.1\nstem, bn freeze")
        model.train()
        lr_range_test(model, optimizer, a_step(model), steps=5)
        model.train()
        assert not model.bn.training
        assert model.blocks[0][1].training

    def test_sparse_gradients(self):
        table = nn.Embedding(5, 2, sparse=True)
        optimizer = torch.optim.SparseAdam(table.parameters())

        def step_fn():
            loss = table(torch.tensor([1, 3, 1])).square().sum()
            loss.backward()
            return loss

        step_fn()
        weight, gradient = table.weight.detach().clone(), table.weight.grad.to_dense()
        lr_range_test(table, optimizer, step_fn, steps=4)
        assert torch.equal(table.weight, weight)
        assert torch.equal(table.weight.grad.to_dense(), gradient)
        assert not optimizer.state

    def test_parameters_that_only_the_optimizer_has(self):
        model, extra = TinyNet(), nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([*model.parameters(), extra], lr=0.1)

        def step_fn():
            loss = (model(IMAGES) * extra).square().mean()
            loss.backward()
            return loss

        lr_range_test(model, optimizer, step_fn, steps=5)
        assert extra.item() == 1
        assert extra.grad is None

    def test_an_optimizer_around_another(self):
        accelerate = pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
        model = randomise(TinyNet())
        inner = surgery.build_optimizer(model, RULES)
        outer = accelerate.Accelerator(cpu=True).prepare_optimizer(inner)
        before = everything(model, inner)
        found = lr_range_test(model, outer, a_step(model), steps=10, highest=1)
        assert len(set(found.losses)) == 10
        assert everything(model, inner) == before
        assert outer.param_groups is inner.param_groups


class Slope(nn.Module):
    """Gradients of 1, so that one SGD step moves each weight by its group's rate."""

    def __init__(self):
        super().__init__()
        self.slow = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.fast = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.still = nn.Parameter(torch.zeros(1, dtype=torch.float64))


def slope_optimizer(model, slow=0.002, fast=0.02):
    return torch.optim.SGD(
        [
            {"params": [model.slow], "lr": slow, "name": "slow"},
            {"params": [model.fast], "lr": fast, "name": "fast"},
            {"params": [model.still], "lr": 0.0, "name": "still"},
        ]
    )


class TestRates:
    def test_rise_by_one_factor_and_keep_their_ratios(self):
        model = Slope()
        optimizer = slope_optimizer(model)
        seen = []

        def step_fn():
            seen.append([group["lr"] for group in optimizer.param_groups])
            loss = model.slow.sum() + model.fast.sum() + model.still.sum()
            loss.backward()
            return loss

        found = lr_range_test(model, optimizer, step_fn, lowest=1e-5, highest=1.0, steps=6)
        assert [rates[1] for rates in seen] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])
        assert all(slow / fast == pytest.approx(0.1, rel=1e-12) for slow, fast, _ in seen)
        assert all(still == 0 for *_, still in seen)
        assert found.groups == ("slow", "fast", "still")
        assert found.ratios == pytest.approx((0.1, 1.0, 0.0))
        assert found.leading_group == "fast"
        assert found.rates == tuple(rates[1] for rates in seen)
        # Losses stand before the step at their rate: all earlier rates have been walked.
        walked = [-1.1 * sum(found.rates[:step]) for step in range(6)]
        assert found.losses == pytest.approx(walked)

    def test_rates_that_are_tensors_stay_those_tensors(self):
        model = TinyNet()
        rate = torch.tensor(0.1)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        lr_range_test(model, optimizer, a_step(model), steps=4)
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate == torch.tensor(0.1)


def synthetic(losses, **options):
    """The test on losses that are given; the gradient is there and does not matter."""
    model = Slope()
    optimizer = slope_optimizer(model)
    remaining = iter(losses)

    def step_fn():
        model.fast.sum().backward()
        return next(remaining)

    return lr_range_test(model, optimizer, step_fn, steps=len(losses), **options)


class TestDivergence:
    def test_stops_at_a_multiple_of_the_lowest(self):
        found = synthetic([2, 2, 1, 0.9, 3.5, 3.7, 9, 9], smoothing=0)
        assert found.losses == (2, 2, 1, 0.9, 3.5, 3.7)
        assert found.diverged_at == found.rates[-1]
        assert found.planned == 8

    def test_a_deep_fall_is_no_divergence_below_the_start(self):
        found = synthetic([5, 5, 0.01, 0.1, 4.9, 5.1, 9], smoothing=0)
        assert len(found.losses) == 6

    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_stops_where_the_loss_is_not_finite(self, loss):
        found = synthetic([2, 1.5, 1, loss, 1])
        assert len(found.losses) == 4
        assert found.diverged_at == found.rates[3]
        assert all(map(math.isfinite, found.smoothed))
        assert str(found.losses[3]) == str(loss)

    def test_losses_below_0(self):
        found = synthetic([-1, -1, -2, -2, -1.5, 3.9, 4.1, 9], smoothing=0)
        assert found.losses[-1] == 4.1

    def test_noise_does_not_end_it_where_it_is_smoothed(self):
        losses = [2, 2, 1, 1, 7, 1, 1, 1]
        assert synthetic(losses, smoothing=0).diverged_at is not None
        assert synthetic(losses, smoothing=0.8).diverged_at is None

    def test_through_to_the_end(self):
        found = synthetic([3, 2, 1])
        assert (found.diverged_at, len(found.losses)) == (None, 3)


class TestSuggestion:
    def test_is_where_the_loss_falls_fastest(self):
        losses = [4 - 3 / (1 + math.exp(30 - step)) for step in range(60)]
        found = synthetic(losses)
        assert found.suggested == found.rates[30]
        assert found.suggested_rates == pytest.approx(
            {"slow": 0.1 * found.rates[30], "fast": found.rates[30], "still": 0}
        )

    def test_does_not_lag_behind_with_more_smoothing(self):
        losses = [4 - 3 / (1 + math.exp((30 - step) / 2)) for step in range(60)]
        for smoothing in (0.0, 0.5, 0.8, 0.95):
            found = synthetic(losses, smoothing=smoothing)
            assert abs(found.rates.index(found.suggested) - 30) <= 1

    def test_an_explosion_at_the_end_does_not_drown_it(self):
        losses = [4 - 3 / (1 + math.exp(20 - step)) for step in range(40)]
        found = synthetic([*losses, 50, 1e6, math.nan])
        assert abs(found.rates.index(found.suggested) - 20) <= 1

    def test_none_where_the_loss_never_fell(self):
        found = synthetic([1, 1.1, 1.2, 1.3])
        assert (found.suggested, found.suggested_rates) == (None, {})
        assert "the loss never fell" in str(found)

    @pytest.mark.parametrize("curvature", [0.1, 1.0, 100.0])
    def test_is_stable_on_a_quadratic_and_follows_its_curvature(self, curvature):
        """Gradient descent on ``c x**2 / 2`` converges for rates below ``2 / c``."""
        weight = nn.Parameter(torch.full((3,), 5.0, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        model = nn.ParameterList([weight])

        def step_fn():
            loss = curvature * weight.square().sum() / 2
            loss.backward()
            return loss

        found = lr_range_test(model, optimizer, step_fn, lowest=1e-5, highest=1e4)
        assert 0.01 / curvature < found.suggested < 1 / curvature
        assert found.diverged_at > 2 / curvature


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lowest": 0}, "expected 0 < lowest < highest, found 0 and 10"),
            ({"lowest": 1, "highest": 0.1}, "expected 0 < lowest < highest, found 1 and 0.1"),
            ({"highest": math.inf}, "found 1e-07 and inf"),
            ({"highest": math.nan}, "found 1e-07 and nan"),
            ({"steps": 2}, "steps: expected a whole number from 3, found 2"),
            ({"steps": 3.5}, "steps: expected a whole number from 3, found 3.5"),
            ({"steps": True}, "steps: expected a whole number from 3, found True"),
            ({"lowest": "a"}, "lowest: expected one number, found a str"),
            ({"diverge": None}, "diverge: expected one number, found None"),
            ({"smoothing": 1}, "expected a smoothing from 0 to below 1, found 1"),
            ({"diverge": 1}, "expected a factor above 1 for diverge, found 1"),
        ],
    )
    def test_arguments(self, options, message):
        model = TinyNet()
        with pytest.raises(TrainingError, match=message):
            lr_range_test(model, torch.optim.SGD(model.parameters()), a_step(model), **options)

    @pytest.mark.parametrize(
        ("step_fn", "message"),
        [
            (lambda model, _: None, "the loss that step_fn returned: expected one number"),
            (lambda model, _: model(IMAGES), "expected one number, found the shape (6, 5)"),
            (lambda model, _: model(IMAGES).sum(), "left no gradient in the optimizer"),
            (lambda model, optimizer: optimizer.step(), "step_fn called optimizer.step()"),
            (lambda model, _: model(IMAGES).sum().backward() or math.nan, "the loss is nan before"),
        ],
    )
    def test_of_step_fn(self, step_fn, message):
        model = randomise(TinyNet())
        optimizer = torch.optim.AdamW(model.parameters())
        before = everything(model, optimizer)
        with pytest.raises(TrainingError) as caught:
            lr_range_test(model, optimizer, lambda: step_fn(model, optimizer))
        assert message in str(caught.value)
        assert everything(model, optimizer) == before
        optimizer.step()  # no longer refused

    def test_a_schedule_that_step_fn_steps(self):
        model = TinyNet()
        optimizer = surgery.build_optimizer(model, RULES)
        schedule = build_schedule(optimizer, "schedule exponential gamma=0.5")
        optimizer.step()
        before, loss_of = everything(model, optimizer), a_step(model)

        def step_fn():
            loss = loss_of()
            schedule.step()
            return loss

        with pytest.raises(TrainingError, match="step_fn changed the learning rates"):
            lr_range_test(model, optimizer, step_fn)
        assert everything(model, optimizer)["groups"] == before["groups"]

    def test_rates_of_0(self):
        model = TinyNet()
        with pytest.raises(TrainingError, match="no group has a learning rate above 0: group 0"):
            lr_range_test(model, torch.optim.SGD(model.parameters(), lr=0.0), a_step(model))

    def test_shapes_that_are_not_there_yet(self):
        model = nn.LazyLinear(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(TrainingError, match="run a batch through the model first"):
            lr_range_test(model, optimizer, lambda: 1.0)


@pytest.fixture(scope="module")
def found() -> RangeTest:
    return synthetic([*(4 - 3 / (1 + math.exp(20 - step)) for step in range(40)), 40, 40, 40, 40])


class TestShows:
    def test_text(self, found):
        headline, *suggestion = str(found).splitlines()
        assert "learning rate of fast rose from 1e-07 to 2.77 in 41 of 44 steps" in headline
        assert "diverged" in headline
        assert suggestion == [
            "suggested, where the loss fell fastest:",
            "  slow   5.3e-05",
            "  fast   0.00053",
            "  still  0",
        ]

    def test_plot(self, found, tmp_path):
        pytest.importorskip("matplotlib", reason="plots need the extra `plot`")
        found.plot(tmp_path / "range.svg")
        drawn = (tmp_path / "range.svg").read_text()
        assert "suggested: 0.00053" in drawn
        assert "learning rate of fast" in drawn
