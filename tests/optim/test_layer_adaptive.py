import io
from copy import deepcopy

import pytest
import torch
from tiny_models import TinyNet
from torch import nn

import surgery
from surgery.errors import OptimizerError
from surgery.optim import LayerAdaptiveAdam
from surgery.tuning import resolve_groups

SHAPES = [(4, 3), (5,), (), (2, 3, 2)]


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in SHAPES]


def gradients(steps: int, dtype: torch.dtype = torch.float64) -> list[list[torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [
        [torch.randn(shape, generator=random, dtype=dtype) for shape in SHAPES]
        for _ in range(steps)
    ]


def run(optimizer: torch.optim.Optimizer, steps: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    for grads in steps:
        for parameter, grad in zip(members, grads, strict=True):
            parameter.grad = grad.to(parameter.dtype)
        optimizer.step()
    return [parameter.detach() for parameter in members]


def published(p, grads, lr, b1, b2, eps):
    """The tutorial's lines, one tensor."""
    exp_avg, exp_avg_sq = torch.zeros_like(p), torch.zeros_like(p)
    for g in grads:
        exp_avg = b1 * exp_avg + (1 - b1) * g
        exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * g * g
        denom = exp_avg_sq.sqrt() + eps
        p = p - lr * (exp_avg.abs() / denom).mean() * exp_avg
    return p


def with_corrections(p, grads, lr, b1, b2, eps, decay):
    """The same with Adam's bias correction and AdamW's decay."""
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        p = p - lr * decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        p = p - lr * (m_hat.abs() / (v_hat.sqrt() + eps)).mean() * m_hat
    return p


@pytest.mark.parametrize("foreach", [False, True])
class TestFormula:
    def test_as_published(self, foreach):
        steps = gradients(50)
        members = parameters()
        start = [p.detach().clone() for p in members]
        optimizer = LayerAdaptiveAdam(
            members, 0.3, (0.8, 0.95), 1e-6, bias_correction=False, foreach=foreach
        )
        for index, value in enumerate(run(optimizer, steps)):
            grads = [step[index] for step in steps]
            expected = published(start[index], grads, 0.3, 0.8, 0.95, 1e-6)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)

    def test_bias_correction_and_decay(self, foreach):
        steps = gradients(50)
        members = parameters()
        start = [p.detach().clone() for p in members]
        optimizer = LayerAdaptiveAdam(members, lr=0.1, weight_decay=0.2, foreach=foreach)
        for index, value in enumerate(run(optimizer, steps)):
            grads = [step[index] for step in steps]
            expected = with_corrections(start[index], grads, 0.1, 0.9, 0.999, 1e-8, 0.2)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)

    def test_moments_are_those_of_adam(self, foreach):
        ours = LayerAdaptiveAdam(parameters(), foreach=foreach)
        theirs = torch.optim.Adam(parameters())
        run(ours, gradients(10))
        run(theirs, gradients(10))
        for mine, other in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert mine.keys() == other.keys()
            assert mine["step"].dtype == other["step"].dtype
            for key in mine:
                torch.testing.assert_close(mine[key], other[key], rtol=1e-14, atol=0)

    def test_maximize_is_the_step_along_the_negative_gradient(self, foreach):
        up = LayerAdaptiveAdam(parameters(), maximize=True, foreach=foreach)
        down = LayerAdaptiveAdam(parameters(), foreach=foreach)
        negative = [[-grad for grad in step] for step in gradients(5)]
        for one, other in zip(run(up, gradients(5)), run(down, negative), strict=True):
            assert torch.equal(one, other)

    def test_the_gradients_stay(self, foreach):
        optimizer = LayerAdaptiveAdam(
            members := parameters(), weight_decay=0.1, maximize=True, foreach=foreach
        )
        grads = gradients(1)[0]
        run(optimizer, [[grad.clone() for grad in grads]])
        assert all(torch.equal(p.grad, grad) for p, grad in zip(members, grads, strict=True))

    def test_complex_is_a_pair_of_reals(self, foreach):
        pair = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
        number = nn.Parameter(torch.view_as_complex(pair.detach().clone()))
        for parameter in (pair, number):
            optimizer = LayerAdaptiveAdam([parameter], foreach=foreach)
            for _ in range(3):
                optimizer.zero_grad()
                parts = torch.view_as_real(parameter) if parameter is number else parameter
                (parts**3).sum().backward()
                optimizer.step()
        torch.testing.assert_close(torch.view_as_real(number), pair, rtol=1e-12, atol=0)

    def test_no_elements(self, foreach):
        empty = nn.Parameter(torch.zeros(0, 3))
        empty.grad = torch.zeros(0, 3)
        other = nn.Parameter(torch.ones(2))
        other.grad = torch.ones(2)
        LayerAdaptiveAdam([empty, other], foreach=foreach).step()
        assert bool((other < 1).all())

    def test_float16_sums_do_not_overflow(self, foreach):
        wide = nn.Parameter(torch.ones(100_000, dtype=torch.float16))
        wide.grad = torch.full_like(wide, 0.5)
        LayerAdaptiveAdam([wide], lr=0.5, eps=1e-4, foreach=foreach).step()
        assert torch.allclose(wide, torch.tensor(0.75, dtype=torch.float16), atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_foreach_equals_the_loop(dtype):
    runs = [
        run(LayerAdaptiveAdam(parameters(dtype), 0.1, weight_decay=0.1, foreach=foreach), steps)
        for foreach, steps in [(True, gradients(30, dtype)), (False, gradients(30, dtype))]
    ]
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_foreach_takes_several_dtypes():
    members = [nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.float32, torch.float64)]
    run(LayerAdaptiveAdam(members, foreach=True), [[torch.ones(3), torch.ones(3)]])
    assert torch.allclose(members[0].double(), members[1])


class TestAsTorchsOwn:
    def test_a_state_dict_goes_on_where_it_was(self):
        steps = gradients(8)
        whole = run(LayerAdaptiveAdam(parameters(), lr=0.1), steps)
        first = LayerAdaptiveAdam(parameters(), lr=0.1)
        run(first, steps[:4])
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        members = [p.detach().clone().requires_grad_() for p in first.param_groups[0]["params"]]
        second = LayerAdaptiveAdam(members, lr=9.0)
        second.load_state_dict(torch.load(file))
        for one, other in zip(run(second, steps[4:]), whole, strict=True):
            assert torch.equal(one, other)

    def test_a_state_of_adam_goes_on(self):
        adam = torch.optim.Adam(parameters(), amsgrad=False)
        run(adam, gradients(3))
        optimizer = LayerAdaptiveAdam(parameters())
        optimizer.load_state_dict(adam.state_dict())
        assert optimizer.param_groups[0]["bias_correction"] is True
        run(optimizer, gradients(1))
        assert {state["step"].item() for state in optimizer.state.values()} == {4.0}

    def test_a_step_that_is_a_number_becomes_a_tensor(self):
        optimizer = LayerAdaptiveAdam(parameters())
        run(optimizer, gradients(2))
        saved = optimizer.state_dict()
        for state in saved["state"].values():
            state["step"] = 2
        for key in ("bias_correction", "foreach", "maximize"):
            del saved["param_groups"][0][key]
        optimizer.load_state_dict(saved)
        run(optimizer, gradients(1))
        assert all(torch.equal(s["step"], torch.tensor(3.0)) for s in optimizer.state.values())

    def test_deepcopies_and_pickles(self):
        optimizer = LayerAdaptiveAdam(parameters())
        run(optimizer, gradients(2))
        other = deepcopy(optimizer)
        for one, copied in zip(run(optimizer, gradients(1)), run(other, gradients(1)), strict=True):
            assert torch.equal(one, copied)

    def test_a_closure_is_called_with_gradients_on(self):
        weight = nn.Parameter(torch.ones(3))
        optimizer = LayerAdaptiveAdam([weight])

        def closure():
            optimizer.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == 3
        assert bool((weight < 1).all())
        assert LayerAdaptiveAdam([weight]).step() is None

    def test_groups_have_options_and_names_of_their_own(self):
        still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        optimizer = LayerAdaptiveAdam(
            [
                {"params": [("still", still)], "lr": 0.0},
                {"params": [("moving", moving)], "bias_correction": False, "foreach": True},
            ],
            lr=0.1,
        )
        run(optimizer, [[torch.ones(2), torch.ones(2)]])
        assert [group["param_names"] for group in optimizer.param_groups] == [["still"], ["moving"]]
        assert torch.equal(still.detach(), torch.ones(2))
        published_step = published(torch.ones(2), [torch.ones(2)], 0.1, 0.9, 0.999, 1e-8)
        torch.testing.assert_close(moving.detach(), published_step)

    def test_parameters_without_a_gradient_get_no_state(self):
        used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        optimizer = LayerAdaptiveAdam([used, unused])
        used.grad = torch.ones(2)
        optimizer.step()
        assert list(optimizer.state) == [used]

    def test_sparse_gradients_are_refused(self):
        table = nn.Embedding(4, 2, sparse=True)
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="does not support sparse gradients"):
            LayerAdaptiveAdam(table.parameters()).step()

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"lr": -1}, "Invalid learning rate: -1"),
            ({"lr": float("nan")}, "Invalid learning rate: nan"),
            ({"lr": torch.tensor(0.1)}, "a tensor, expected numbers"),
            ({"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
            ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
            ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
            ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ],
    )
    def test_bad_values(self, keys, message):
        with pytest.raises(ValueError, match=message):
            LayerAdaptiveAdam(parameters(), **keys)


class TestInRules:
    RULES = (
        "base optimizer=surgery.optim:LayerAdaptiveAdam lr=0.1 bias_correction=false\n"
        ":1d betas=0.8,0.9\nfc lr*=10"
    )

    def test_named_by_package_and_class(self):
        optimizer = surgery.build_optimizer(TinyNet(), self.RULES)
        assert type(optimizer) is LayerAdaptiveAdam
        assert optimizer.defaults["bias_correction"] is False
        assert {group["lr"] for group in optimizer.param_groups} == {0.1, 1.0}
        assert (0.8, 0.9) in {group["betas"] for group in optimizer.param_groups}

    def test_the_report_knows_its_state(self):
        model = TinyNet()
        groups = resolve_groups(model, self.RULES)
        optimizer = surgery.build_optimizer(model, groups)
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        kept = sum(v.nbytes for state in optimizer.state.values() for v in state.values())
        assert groups.state_bytes == kept

    def test_bad_values_are_one_line(self):
        with pytest.raises(OptimizerError, match="cannot be built: Invalid epsilon value: -1"):
            resolve_groups(TinyNet(), self.RULES, base={"eps": -1})

    @pytest.mark.parametrize("name", ["timm:lamb", "timm:lars", "lamb", "lars"])
    def test_lamb_and_lars_come_from_timm(self, name):
        model = TinyNet()
        optimizer = surgery.build_optimizer(model, f"base optimizer={name} lr=0.1\nfc lr*=10")
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        before = model.fc.weight.detach().clone()
        optimizer.step()
        assert type(optimizer).__name__.lower() == name.removeprefix("timm:")
        assert not torch.equal(model.fc.weight, before)
