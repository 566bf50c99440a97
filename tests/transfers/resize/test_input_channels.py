import pytest
import timm
import torch
from timm.models import adapt_input_conv
from tiny_models import randomise
from torch import nn

import surgery
from surgery.errors import SurgeryError
from surgery.transfers import plan_transfer


class Stem(nn.Module):
    """A first convolution, and a second one that reads as few channels."""

    def __init__(self, channels, grouped=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=6 // grouped)

    def forward(self, x):
        return self.conv2(self.conv1(x).relu())


def resized(old, new):
    source = randomise(Stem(old)).double()
    model = Stem(new).double()
    surgery.transfer(source, model, resize="auto", strict=False)
    return source, model


@pytest.mark.parametrize("seed", range(3))
def test_grey_images_give_what_the_same_image_repeated_gave(seed):
    source, model = resized(3, 1)
    grey = torch.rand(2, 1, 9, 9, dtype=torch.float64, generator=torch.manual_seed(seed))
    torch.testing.assert_close(model(grey), source(grey.repeat(1, 3, 1, 1)), rtol=1e-13, atol=0)


def test_a_network_for_grey_images_gives_the_same_on_its_image_repeated():
    source, model = resized(1, 3)
    grey = torch.rand(2, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(model(grey.repeat(1, 3, 1, 1)), source(grey), rtol=1e-13, atol=0)


@pytest.mark.parametrize("new", [1, 2, 4, 5, 9])
def test_the_values_are_timms_to_the_bit(new):
    source, model = timm.create_model("resnet18"), timm.create_model("resnet18", in_chans=new)
    outcome = surgery.transfer(source, model, resize="auto")
    assert outcome.resized == ("conv1.weight",)
    assert torch.equal(model.conv1.weight, adapt_input_conv(new, source.conv1.weight.detach()))


@pytest.mark.parametrize(("old", "new"), [(3, 7), (1, 4), (4, 3), (4, 9)])
def test_repetition_and_scale(old, new):
    """Channel i of the new weight is channel i modulo ``old`` times old/new."""
    source, model = resized(old, new)
    for channel in range(new):
        expected = source.conv1.weight[:, channel % old] * old / new
        torch.testing.assert_close(model.conv1.weight[:, channel], expected, rtol=1e-15, atol=0)


def test_another_grouping_is_no_other_image():
    plan = plan_transfer(Stem(3, grouped=1), Stem(3, grouped=3), resize="auto")
    assert plan.by_target["conv2.weight"].state == "fresh"


def test_the_plan_says_what_is_done_and_after_whom():
    step = plan_transfer(Stem(3), Stem(4), resize="auto").by_target["conv1.weight"]
    assert step.state == "resized"
    assert step.method.name == "input-channels"
    assert step.reason == "3 input channels to 4: repeated, scaled by 3/4"
    assert step.method.reference == "timm.models.adapt_input_conv"
    assert not step.method.named


def test_equal_channels_need_no_resizer():
    with pytest.raises(SurgeryError, match="fits nothing") as caught:
        plan_transfer(Stem(3), Stem(3), resize={"conv1.weight": "input-channels"})
    (line,) = caught.value.details
    assert line.startswith("conv1.weight: input-channels is for convolutions that differ")
    assert line.endswith("source float32 (6, 3, 3, 3), target float32 (6, 3, 3, 3)")
