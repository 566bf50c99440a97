"""What no file can be called, wherever a path may be meant."""

import pytest
import torch

import surgery
from surgery.errors import SurgeryError

STATE = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
ODD = {"too-long": "a" * 5000, "nul": "a\0b", "half-a-character": "\ud800"}


def layer():
    return torch.nn.Linear(2, 2)


CALLS = {
    "source": lambda path: surgery.transfer(path, layer()),
    "mapping": lambda path: surgery.transfer(STATE, layer(), mapping=path),
    "target": lambda path: surgery.plan_transfer(STATE, f"{path}.py:make"),
    "rules": lambda path: surgery.resolve_groups(layer(), path),
    "rules-text": lambda path: surgery.resolve_groups(layer(), f"{path} lr=1"),
    "save": lambda path: surgery.save(layer(), f"{path}.pt"),
    "write": lambda path: surgery.plan_transfer(STATE, layer()).write(f"{path}.safetensors"),
    "convert": lambda path: surgery.convert(path, "new.pt"),
}


@pytest.mark.parametrize("path", ODD.values(), ids=ODD)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_it_is_an_error_of_ours_in_one_short_line(call, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SurgeryError) as caught:
        call(path)
    assert caught.value.exit_code == 2
    str(caught.value).encode()
    assert len(str(caught.value).splitlines()[0]) < 600
    assert not list(tmp_path.iterdir())
