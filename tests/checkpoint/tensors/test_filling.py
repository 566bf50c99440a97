"""Values into live tensors: every kind of memory, every kind of source."""

import subprocess
import sys

import pytest
import torch
from every_dtype import bits, every_dtype

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.source import OneAtATime, Reader
from surgery.checkpoint.tensors.filling import fill
from surgery.checkpoint.writer import save

VALUE = torch.randn(4, 6, 8, 10)


def flat_view(dtype):
    whole = torch.zeros(2, *VALUE.shape, dtype=dtype)
    return whole[1]


TARGETS = {
    "contiguous": lambda dtype: torch.zeros(VALUE.shape, dtype=dtype),
    "parameter": lambda dtype: torch.nn.Parameter(torch.zeros(VALUE.shape, dtype=dtype)),
    "channels-last": lambda dtype: torch.zeros(VALUE.shape, dtype=dtype).to(
        memory_format=torch.channels_last
    ),
    "transposed": lambda dtype: torch.zeros(VALUE.shape[::-1], dtype=dtype).permute(3, 2, 1, 0),
    "strided": lambda dtype: torch.zeros((*VALUE.shape, 2), dtype=dtype)[..., 1],
    "part-of-a-flat-storage": flat_view,
}


@pytest.fixture(params=["pt", "safetensors", "strided", "memory"])
def source(request, tmp_path):
    """The same values in a file, as a strided view in a file, and in memory."""
    if request.param == "memory":
        return VALUE
    if request.param == "strided":
        torch.save({"x": VALUE.transpose(1, 2).contiguous().transpose(1, 2)}, tmp_path / "a.pt")
        return open_checkpoint(tmp_path / "a.pt").place("x")
    return open_checkpoint(save({"x": VALUE}, tmp_path / f"a.{request.param}")).place("x")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.float64])
@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_memory(kind, dtype, source, monkeypatch):
    monkeypatch.setattr("surgery.checkpoint.pieces.PIECE", 1008)
    target = TARGETS[kind](dtype)
    before = target.stride(), target._version, target.data_ptr()
    with OneAtATime() as sources:
        assert fill(target, source, sources) == 0
    assert bits(target) == bits(VALUE.to(dtype))
    assert (target.stride(), target.data_ptr()) == (before[0], before[2])
    assert target._version > before[1]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_every_dtype_and_shape(suffix, tmp_path):
    state = {
        name: value
        for name, value in every_dtype().items()
        if suffix == "pt" or not name.startswith(("complex128", "float4"))
    }
    opened = open_checkpoint(save(state, tmp_path / f"a.{suffix}"))
    with OneAtATime() as sources:
        for name, value in state.items():
            target = torch.empty_like(value)
            assert fill(target, opened.place(name), sources) == 0
            assert bits(target) == bits(value)


def test_conjugate_and_negative_targets(tmp_path):
    value = torch.randn(5, dtype=torch.complex64)
    place = open_checkpoint(save({"x": value, "y": value.imag}, tmp_path / "a.pt"))
    conjugate, negative = (
        torch.zeros(5, dtype=torch.complex64).conj(),
        torch.zeros(5, dtype=torch.complex64).conj().imag,
    )
    assert negative.is_neg()
    with OneAtATime() as sources:
        fill(conjugate, place.place("x"), sources)
        fill(negative, place.place("y"), sources)
    assert torch.equal(conjugate.resolve_conj(), value)
    assert torch.equal(negative.resolve_neg(), value.imag)


def test_autograd_notices(tmp_path):
    """A value that backward needs was overwritten, and must not be used."""
    weight = torch.nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    place = open_checkpoint(save({"x": torch.zeros(3)}, tmp_path / "a.pt")).place("x")
    with OneAtATime() as sources:
        fill(weight, place, sources)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_read_twice_or_into_other_memory(tmp_path, monkeypatch):
    path = save({"x": VALUE, "y": torch.ones(3)}, tmp_path / "a.safetensors")
    target, read = torch.zeros(VALUE.shape), []
    read_into = Reader.read_into

    def noting(self, start, memory):
        read.append((start, memory.nbytes))
        return read_into(self, start, memory)

    opened = open_checkpoint(path)
    monkeypatch.setattr(Reader, "read_into", noting)
    with OneAtATime() as sources:
        fill(target, opened.place("x"), sources)
    assert read == [(opened.place("x").region.start, VALUE.nbytes)]


LEAN = """
import resource, sys
import torch
import surgery
from torch import nn
model = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(64)))
if sys.argv[2] == "half":
    model.half()
for parameter in model.parameters():
    nn.init.zeros_(parameter)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
surgery.transfer(sys.argv[1], model, strict=sys.argv[2] == "same")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert all(bool((parameter == 1).all()) for parameter in model.parameters())
print(after - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("dtype", ["same", "half"])
def test_no_state_dict_is_held_beside_the_model(dtype, tmp_path):
    """256 MB go into a model; what is needed for it stays far below that."""
    ones = torch.ones(1000, 1000)
    state = {f"{i}.weight": ones.clone() for i in range(64)}
    path = save(state, tmp_path / "a.safetensors")
    ran = subprocess.run(
        [sys.executable, "-c", LEAN, str(path), dtype], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 80_000
