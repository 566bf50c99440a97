import copy
import io
import pickle

import numpy
import pytest
import timm
import torch
import torchvision
from torch import nn

from surgery.networks import deferred as deferring
from surgery.networks.deferred import DeferredInit

ARCHITECTURES = [
    pytest.param(lambda: torchvision.models.resnet18(), id="resnet18"),
    pytest.param(lambda: torchvision.models.regnet_y_400mf(), id="regnet-reads-while-it-builds"),
    pytest.param(lambda: torchvision.models.swin_t(), id="swin-computes-buffers"),
    pytest.param(lambda: timm.create_model("vit_tiny_patch16_224"), id="vit-draws-outside-fills"),
    pytest.param(lambda: timm.create_model("beit_base_patch16_224", depth=2), id="beit-rescales"),
    pytest.param(lambda: timm.create_model("eva02_tiny_patch14_224"), id="eva-rope"),
    pytest.param(lambda: timm.create_model("efficientformer_l1"), id="efficientformer"),
    pytest.param(lambda: nn.LSTM(64, 64), id="lstm"),
    pytest.param(lambda: nn.MultiheadAttention(64, 2), id="attention"),
    pytest.param(
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(64, 64)), id="parametrized"
    ),
]


def everything(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_deferring_never_changes_a_value(make, monkeypatch):
    with DeferredInit(seed=3) as init:
        deferred = make()
    init.fill(everything(deferred).values())
    monkeypatch.setattr(deferring, "WORTH_DEFERRING", 1 << 60)
    with DeferredInit(seed=3):
        direct = make()
    for name, tensor in everything(deferred).items():
        assert torch.equal(tensor, everything(direct)[name]), name


def test_a_value_does_not_depend_on_which_others_are_filled():
    with DeferredInit(seed=1) as init:
        alone = torchvision.models.resnet18()
    init.fill([alone.fc.weight])
    with DeferredInit(seed=1) as init:
        all_of_it = torchvision.models.resnet18()
    init.fill(all_of_it.parameters())
    assert torch.equal(alone.fc.weight, all_of_it.fc.weight)


def test_seeds_differ_and_repeat():
    weights = []
    for seed in (0, 0, 1):
        with DeferredInit(seed) as init:
            layer = nn.Linear(64, 64)
        init.fill([layer.weight])
        weights.append(layer.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_two_fills_of_one_shape_draw_different_values():
    with DeferredInit() as init:
        one, other = nn.Linear(64, 64), nn.Linear(64, 64)
    init.fill([one.weight, other.weight])
    assert not torch.equal(one.weight, other.weight)


def test_the_distribution_is_the_architectures_own():
    with DeferredInit() as init:
        model = timm.create_model("vit_tiny_patch16_224")
    init.fill([model.blocks[3].mlp.fc1.weight])
    assert float(model.blocks[3].mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.02)


def test_reading_makes_the_fill_happen():
    with DeferredInit():
        weight = torch.empty(64, 64).fill_(2.0)
        total = float(weight.sum())
    assert total == 2.0 * 64 * 64


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda t: torch.from_numpy(t.detach().numpy().copy()), id="numpy"),
        pytest.param(lambda t: torch.tensor(t.tolist()), id="tolist"),
        pytest.param(lambda t: torch.from_numpy(numpy.asarray(t.detach()).copy()), id="array"),
        pytest.param(lambda t: torch.from_dlpack(t.detach()).clone(), id="dlpack"),
        pytest.param(lambda t: copy.deepcopy(t.detach()), id="deepcopy"),
        pytest.param(lambda t: _through_a_file(t), id="torch-save"),
        pytest.param(lambda t: pickle.loads(pickle.dumps(t)), id="pickle"),
        pytest.param(
            lambda t: torch.tensor(list(t.detach().storage())),
            id="storage",
            marks=pytest.mark.filterwarnings("ignore:TypedStorage:UserWarning"),
        ),
    ],
)
def test_ways_around_operations_see_the_values_too(read):
    with DeferredInit(seed=2) as init:
        weight = torch.empty(64, 64).normal_()
        seen = read(weight)
        weight.mul_(2.0)
    init.fill([weight])
    assert torch.equal(seen.reshape(64, 64) * 2, weight)
    assert float(weight.std()) == pytest.approx(2.0, rel=0.1)


def _through_a_file(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_memory_in_other_hands_is_written_at_once():
    with DeferredInit():
        weight = torch.empty(64, 64).fill_(1.0)
        view = weight.numpy()
        weight.fill_(5.0)
        assert view[0, 0] == 5.0


def test_a_generator_of_ones_own_is_drawn_from_in_order():
    def draw():
        generator = torch.Generator().manual_seed(1)
        one = torch.empty(64, 64).normal_(generator=generator)
        other = torch.empty(64, 64).normal_(generator=generator)
        return one, other

    with DeferredInit() as init:
        deferred = draw()
    init.fill(deferred[1:])
    init.fill(deferred)
    assert all(map(torch.equal, deferred, draw()))


def test_a_small_change_of_a_waiting_tensor_keeps_its_place():
    with DeferredInit() as init:
        weight = torch.empty(64, 64).fill_(1.0)
        weight[0].zero_()
        weight.mul_(3.0)
    init.fill([weight])
    assert float(weight[0].sum()) == 0.0
    assert float(weight[1].sum()) == 3.0 * 64


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with DeferredInit(seed=9) as init:
        model = nn.Linear(64, 64)
        torch.rand(2)
    init.fill(model.parameters())
    assert torch.equal(torch.rand(3), expected)


def test_fills_seed_no_device(monkeypatch):
    """One note a fill, with a traceback, for devices that are not even there."""
    with DeferredInit() as init:
        layer = torch.nn.Linear(64, 64)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    init.fill([layer.weight])
    assert layer.weight.std() > 0
    assert seeded == []
