"""Conversions change the container and, where asked, the dtype; never a bit of anything else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from every_dtype import bits, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surgery
from surgery.checkpoint import open_checkpoint, read_contents
from surgery.checkpoint.conversion import plan_conversion
from surgery.checkpoint.formats.safetensors import DTYPES
from surgery.errors import CheckpointError, SurgeryError, ValueRefused
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"
STATES = [
    (path, state.key)
    for path in sorted(FIXTURES.iterdir())
    for state in read_contents(path).state_dicts
]


def told(checkpoint):
    """All that a checkpoint is but the order of its names."""
    return (
        {spec.name: spec for spec in checkpoint.specs},
        {frozenset(names) for names in checkpoint.ties},
        dict(checkpoint.versions),
    )


@pytest.mark.parametrize(("path", "key"), STATES, ids=[f"{p.name}-{k}" for p, k in STATES])
@pytest.mark.parametrize("formats", [(".pt", ".safetensors"), (".safetensors", ".pt")])
def test_every_fixture_to_both_formats_and_back(path, key, formats, tmp_path):
    source = open_checkpoint(path, key=key)
    if source.unreadable:
        pytest.skip("holds tensors that are not read")
    values = source.state_dict()
    last = path
    for turn, suffix in enumerate(formats):
        surgery.convert(last, tmp_path / f"{turn}{suffix}", key=key if turn == 0 else None)
        last = tmp_path / f"{turn}{suffix}"
        converted = open_checkpoint(last)
        assert told(converted) == told(source)
        assert same(converted.state_dict(), values)
        assert {k: v for k, v in converted.metadata.items() if k != "format"} == {
            k: v for k, v in source.metadata.items() if k != "format"
        }


RECIPES = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.tuples(
        st.sampled_from([*DTYPES.values()]),
        st.lists(st.integers(0, 3), max_size=3),
        st.integers(0, 3),
        st.randoms(),
    ).filter(lambda recipe: not (recipe[0].startswith("float4") and not recipe[1])),
    min_size=1,
    max_size=5,
)


def tensor(dtype_name, shape, random):
    dtype = getattr(torch, dtype_name)
    count = torch.Size(shape).numel() * dtype.itemsize
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.tensor(list(random.randbytes(count)), dtype=torch.uint8).view(dtype).reshape(shape)


def made(recipes):
    """Tensors by name, some of them one tensor, some of them views that are not contiguous."""
    state = {}
    for name, (dtype, shape, kind, random) in recipes.items():
        value = tensor(dtype, shape, random)
        if kind == 0 and state:
            value = next(iter(state.values()))
        elif kind == 1 and len(shape) > 1 and not dtype.startswith("float4"):
            value = value.permute(*reversed(range(value.ndim)))
        state[name] = value
    return state


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    recipes=RECIPES,
    written=st.sampled_from([".pt", ".safetensors", "zip", "stream", "set"]),
    wanted=st.sampled_from([".pt", ".safetensors", "set"]),
    by=st.sampled_from(["convert", "transfer"]),
)
def test_identity(recipes, written, wanted, by, tmp_path):
    """Whatever the tensors, the format, and the way: the same bits, and ties."""
    state = made(recipes)
    for file in tmp_path.iterdir():
        file.unlink()
    if written in ("zip", "stream"):
        old = tmp_path / "old.pt"
        torch.save(state, old, _use_new_zipfile_serialization=written == "zip")
    else:
        suffix, most = (".safetensors", 16) if written == "set" else (written, None)
        old = surgery.save(state, tmp_path / f"old{suffix}", max_shard_size=most)
    suffix, most = (".safetensors", 16) if wanted == "set" else (wanted, None)
    out, source = tmp_path / f"new{suffix}", open_checkpoint(old)
    if by == "convert":
        files = plan_conversion(source).write(out, max_shard_bytes=most).files
    else:
        job = plan(TransferRequest(source=source, target=f"like:{old}"))
        files = job.write(out, max_shard_bytes=most).files
    again = open_checkpoint(files[-1])
    assert same(again.state_dict(), state)
    assert told(again)[0] == told(source)[0]
    if by == "convert":  # a transfer ties parameters; shared buffers are written one by one
        assert told(again)[1] == told(source)[1]


class TestDtype:
    STATE = {
        "w": torch.tensor([1.0, 1e6, -2.0]),
        "b": torch.ones(2).bfloat16(),
        "n": torch.tensor(3),
        "c": torch.ones(2, dtype=torch.complex64),
    }

    def test_real_floats_only(self, tmp_path):
        surgery.save(self.STATE, tmp_path / "a.pt")
        outcome = surgery.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", dtype="float16")
        assert outcome.overflowed == (("w", 1),)
        assert dict(outcome.conversion.casts) == {
            "float32 -> float16": 1,
            "bfloat16 -> float16": 1,
        }
        read = open_checkpoint(tmp_path / "b.safetensors").state_dict()
        assert {name: value.dtype for name, value in read.items()} == {
            **dict.fromkeys("wb", torch.float16), "n": torch.int64, "c": torch.complex64,
        }  # fmt: skip
        assert bits(read["w"]) == bits(self.STATE["w"].half())

    @pytest.mark.parametrize("most", [None, 8])
    def test_strict_leaves_the_old_file(self, most, tmp_path):
        surgery.save(self.STATE, tmp_path / "a.pt")
        surgery.save({"old": torch.ones(9)}, tmp_path / "b.safetensors", max_shard_size=most)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        with pytest.raises(ValueRefused, match="strict: casts break 1 values in 1 tensors"):
            surgery.convert(
                tmp_path / "a.pt", tmp_path / "b.safetensors",
                dtype="float16", strict=True, max_shard_size=most,
            )  # fmt: skip
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    @pytest.mark.parametrize("dtype", ["flaot16", "int8", "float4_e2m1fn_x2", "torch.float16", ""])
    def test_unknown(self, dtype, tmp_path):
        surgery.save(self.STATE, tmp_path / "a.pt")
        with pytest.raises(SurgeryError, match="is not known.*expected one of float64"):
            surgery.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype=dtype)

    def test_a_record_speaks_of_the_new_dtypes(self, tmp_path):
        from surgery.record import read_record

        surgery.save({"w": torch.ones(3), "n": torch.ones(2)}, tmp_path / "a.pt")
        job = plan(
            TransferRequest(
                source=open_checkpoint(tmp_path / "a.pt"), target=f"like:{tmp_path / 'a.pt'}"
            )
        )
        job.write(tmp_path / "t.safetensors")
        surgery.convert(tmp_path / "t.safetensors", tmp_path / "h.pt", dtype="bfloat16")
        opened = open_checkpoint(tmp_path / "h.pt")
        record = read_record(opened.metadata, opened.specs)
        assert record is not None
        assert {spec.dtype for spec in record.model.tensors} == {"bfloat16"}


def test_what_cannot_come_along_is_said(tmp_path):
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save(
        {"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}, "epoch": 3, "opt": optimizer},
        tmp_path / "run.pt",
    )
    outcome = surgery.convert(tmp_path / "run.pt", tmp_path / "b.safetensors", key="ema")
    said = dict(outcome.conversion.left_out)
    assert said["model"] == "a state dict of 1 tensor"
    assert said["epoch"] == "int 3"
    assert "opt" in said
    assert "a state dict of 1 tensor" in str(outcome)


def test_tensors_that_cannot_be_read_would_be_lost(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="1 tensors cannot be read and would be lost"):
        surgery.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_in_place(how, suffix, tmp_path):
    state = {"a": torch.randn(30_000), "b": torch.randn(5)}
    path = surgery.save(state, tmp_path / f"a{suffix}")
    out = path if how == "same" else tmp_path / f"b{suffix}"
    if how == "symlink":
        out.symlink_to(path.name)
    elif how == "hardlink":
        out.hardlink_to(path)
    surgery.convert(path, out, dtype="float16")
    half = {name: value.half() for name, value in state.items()}
    assert same(open_checkpoint(out).state_dict(), half)
    assert same(open_checkpoint(path).state_dict(), state if how == "hardlink" else half)


def test_a_source_that_changes_meanwhile_leaves_the_old_file(tmp_path):
    path = surgery.save({"a": torch.zeros(200_000)}, tmp_path / "a.safetensors")
    old = surgery.save({"old": torch.ones(1)}, tmp_path / "b.pt")
    planned = plan_conversion(open_checkpoint(path))

    def change(_):
        os.utime(path)

    with pytest.raises(CheckpointError, match="a.safetensors: changed since it was opened"):
        planned.write(old, progress=change)
    assert list(open_checkpoint(old).state_dict()) == ["old"]
    assert len(list(tmp_path.iterdir())) == 2


def test_no_torch_where_nothing_is_computed(tmp_path):
    path = surgery.save({"a": torch.zeros(70_000), "b": torch.ones(3)}, tmp_path / "a.pt")
    script = (
        "import sys, surgery\n"
        f"surgery.convert({str(path)!r}, {str(tmp_path / 'b.safetensors')!r})\n"
        f"surgery.convert({str(tmp_path / 'b.safetensors')!r}, {str(tmp_path / 'c.pt')!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert same(open_checkpoint(tmp_path / "c.pt").state_dict(), open_checkpoint(path).state_dict())


def test_torchs_own_dtype_is_taken_as_well(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    surgery.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype=torch.bfloat16)
    assert open_checkpoint(tmp_path / "b.pt").tensor("w").dtype is torch.bfloat16
    with pytest.raises(SurgeryError, match="dtype 'int8' is not known"):
        surgery.convert(tmp_path / "a.pt", tmp_path / "c.pt", dtype=torch.int8)
