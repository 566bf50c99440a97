import pytest
import torch

from surgery.specs import TensorSpec
from surgery.tuning.optimizer_choice import find_optimizer

SHAPES = [(16, 8, 3, 3), (16,), (16, 8), (16,)]
DTYPES = [torch.float32, torch.float32, torch.bfloat16, torch.float64]


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
