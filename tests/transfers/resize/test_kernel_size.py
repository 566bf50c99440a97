import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surgery
from surgery.transfers import plan_transfer


def convolutions(old, new, dims=2):
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return make(2, 3, old, padding=old // 2).double(), make(2, 3, new, padding=new // 2).double()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_zeros_around_a_kernel_change_nothing(dims):
    source, model = convolutions(3, 7, dims)
    surgery.transfer(source, model, resize="auto")
    image = torch.rand(2, 2, *(9,) * dims, dtype=torch.float64)
    torch.testing.assert_close(model(image), source(image), rtol=1e-12, atol=1e-14)


def test_the_centre_of_a_larger_kernel():
    source, model = convolutions(7, 3)
    surgery.transfer(source, model, resize="auto")
    assert torch.equal(model.weight, source.weight[:, :, 2:5, 2:5])


def test_each_side_for_itself():
    source, model = nn.Conv2d(1, 1, (5, 1)), nn.Conv2d(1, 1, (3, 3))
    outcome = surgery.transfer(source, model, resize="auto")
    expected = torch.zeros(3, 3)
    expected[:, 1] = source.weight[0, 0, 1:4, 0].detach()
    assert torch.equal(model.weight[0, 0], expected)
    step = outcome.plan.by_target["weight"]
    assert step.reason == "5 x 1 kernel to 3 x 3: zeros around it, its centre alone"
    assert "Wei" in step.method.reference
    assert "Cai" in step.method.reference


def test_interpolation_where_it_was_chosen():
    source, model = convolutions(3, 6)
    surgery.transfer(source, model, resize=["weight=kernel-size:how=interpolate"])
    expected = F.interpolate(source.weight.detach(), size=(6, 6), mode="bilinear")
    assert torch.equal(model.weight, expected)


def test_kernels_without_a_common_centre():
    source, model = convolutions(7, 4)
    step = plan_transfer(source, model, resize="auto").by_target["weight"]
    assert step.state == "fresh"
    assert "7 x 7 and a 4 x 4 kernel have no common centre" in step.reason


def test_three_axes_are_no_kernel_by_themselves():
    source, model = nn.Module(), nn.Module()
    source.weight, model.weight = (nn.Parameter(torch.rand(1, 1, n)) for n in (5, 3))
    step = plan_transfer(source, model, resize="auto").by_target["weight"]
    assert step.state == "fresh"
