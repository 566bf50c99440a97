import subprocess
import sys
from functools import partial

import pytest
import torch
from timm.optim import Lamb
from torch import nn

from surgery.errors import OptimizerError
from surgery.specs import TensorSpec
from surgery.tuning.optimizer_choice import find_optimizer

SHAPES = [(16, 8, 3, 3), (16,), (16, 8), (16,)]
DTYPES = [torch.float32, torch.float32, torch.bfloat16, torch.float64]


class Own(torch.optim.SGD):
    """Passes keys on, and has no rate of its own."""

    def __init__(self, params, lr, slow=1, **rest):
        super().__init__(params, lr=lr / slow, **rest)


@pytest.mark.parametrize(
    ("written", "name", "kind"),
    [
        ("sgd", "SGD", torch.optim.SGD),
        ("AdamW", "AdamW", torch.optim.AdamW),
        ("RMSPROP", "RMSprop", torch.optim.RMSprop),
        ("torch:adam", "Adam", torch.optim.Adam),
        ("lamb", "timm:lamb", Lamb),
        ("timm:Lamb", "timm:lamb", Lamb),
        ("timm:sgd", "timm:sgd", torch.optim.SGD),
        ("torch.optim:NAdam", "torch.optim:NAdam", torch.optim.NAdam),
        ("torch.optim.AdamW", "torch.optim:AdamW", torch.optim.AdamW),
        (torch.optim.Adam, "torch.optim.adam:Adam", torch.optim.Adam),
    ],
)
def test_found(written, name, kind):
    choice = find_optimizer(written)
    assert choice.name == name
    assert isinstance(choice.build([torch.nn.Parameter(torch.ones(1))], lr=0.1), kind)
    assert find_optimizer(choice.name).name == name


def test_timms_comes_as_its_factory_makes_it():
    assert find_optimizer("timm:sgd").defaults({"lr": 0.1})["nesterov"] is True
    assert find_optimizer("sgd").defaults({"lr": 0.1})["nesterov"] is False


def test_a_class_of_ones_own():
    choice = find_optimizer(Own)
    assert choice.defaults({"lr": 0.5, "slow": 2, "momentum": 0.9})["lr"] == 0.25
    assert {"lr", "slow", "momentum"} < choice.signature.keys()
    with pytest.raises(OptimizerError, match="cannot be built") as caught:
        choice.defaults({})
    assert caught.value.details == ("no learning rate was given: set one with `base lr=...`",)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("adamq", "no optimizer is called 'adamq', neither torch's nor timm's; did you mean"),
        ("timm:lamp", "no optimizer is called 'timm:lamp'"),
        ("torch:lamb", "no optimizer is called 'torch:lamb'"),
        ("os:path", "os:path is no torch.optim.Optimizer"),
        ("torch.optim:Nothing", "no optimizer at torch.optim:Nothing"),
        ("no.such.module:X", "no optimizer at no.such.module:X"),
    ],
)
def test_not_found(written, message):
    with pytest.raises(OptimizerError) as caught:
        find_optimizer(written)
    assert message in caught.value.message


def test_the_package_does_not_import_torch():
    code = "import sys, surgery.tuning, surgery.patterns; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", [5, partial(torch.optim.SGD, lr=1), nn.Linear])
def test_neither_a_name_nor_a_class(value):
    with pytest.raises(OptimizerError, match=r"a name or a class, not|is no torch.optim.Optimizer"):
        find_optimizer(value)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sgd", {"lr": 0.1}),
        ("sgd", {"lr": 0.1, "momentum": 0.9}),
        ("adam", {}),
        ("adam", {"fused": True}),
        ("adamw", {"amsgrad": True}),
        ("rmsprop", {}),
        ("rmsprop", {"momentum": 0.9}),
        ("rmsprop", {"centered": True, "momentum": 0.9}),
        ("adagrad", {}),
        ("adadelta", {}),
        ("adamax", {}),
        ("nadam", {}),
        ("radam", {}),
        ("rprop", {}),
        ("lion", {}),
        ("timm:lamb", {}),
        ("timm:sgd", {"lr": 0.1}),
    ],
)
def test_what_the_real_optimizer_keeps(name, keys):
    choice = find_optimizer(name)
    parameters = [
        torch.nn.Parameter(torch.ones(shape, dtype=dtype))
        for shape, dtype in zip(SHAPES, DTYPES, strict=True)
    ]
    optimizer = choice.build([{"params": parameters}], **keys)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(
        value.numel() * value.element_size()
        for parameter in parameters
        for value in optimizer.state[parameter].values()
        if isinstance(value, torch.Tensor)
    )
    specs = [TensorSpec.of(str(index), parameter) for index, parameter in enumerate(parameters)]
    assert choice.state_bytes(keys, specs) == kept
    hyper = {key: value for key, value in keys.items() if key != "fused"}
    assert choice.state_bytes(hyper, specs) == kept


@pytest.mark.parametrize("name", ["lbfgs", "sparseadam", "muon"])
def test_unknown_where_it_cannot_be_asked(name):
    spec = TensorSpec.of("bias", torch.ones(3))
    assert find_optimizer(name).state_bytes({}, [spec]) is None
