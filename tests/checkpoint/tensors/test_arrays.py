"""State dicts of numpy arrays are read as those of tensors are."""

import ml_dtypes
import numpy as np
import pytest
import torch
from tiny_models import TinyNet, randomise, same_bits, snapshot

import surgery


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "changed",
    [
        lambda array: array,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: np.array(array, order="F"),
        lambda array: np.flip(np.flip(array).copy()) if array.ndim else array,
        lambda array: read_only(array.copy()),
    ],
    ids=["as it is", "big-endian", "columns first", "negative strides", "read-only"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_arrays_give_what_tensors_give(changed, nested, tmp_path):
    source, model = randomise(TinyNet()), randomise(TinyNet(), 3)
    arrays = {name: changed(value.numpy()) for name, value in source.state_dict().items()}
    outcome = surgery.transfer({"model": arrays, "epoch": 3} if nested else arrays, model)
    assert outcome.loaded_fraction == 1
    assert same_bits(snapshot(source), snapshot(model))
    surgery.save(arrays, tmp_path / "arrays.safetensors")
    surgery.save(source, tmp_path / "tensors.safetensors")
    ours, theirs = map(surgery.open_checkpoint, sorted(tmp_path.iterdir()))
    for name, expected in source.state_dict().items():
        assert torch.equal(ours.tensor(name), expected)
        assert torch.equal(theirs.tensor(name), expected)


def test_what_torch_has_no_dtype_for_is_no_tensor():
    source = {name: value.numpy() for name, value in TinyNet().state_dict().items()}
    plan = surgery.plan_transfer({**source, "labels": np.array(["a", "b"])}, TinyNet())
    assert dict(plan.unread).keys() == {"labels"}


def test_a_mapping_that_holds_itself_ends():
    source = {name: value.numpy() for name, value in TinyNet().state_dict().items()}
    around = {"model": source}
    around["self"] = around
    assert surgery.plan_transfer(around, TinyNet(), key="model").loaded_fraction == 1


def test_bfloat16_by_another_name():
    values = torch.randn(4).bfloat16()
    array = values.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    surgery.transfer({"weight": array.reshape(1, 4)}, model)
    assert torch.equal(model.weight.detach()[0], values)
