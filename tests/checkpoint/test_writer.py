"""Writing: what was given comes back, the old file or the new one, and nothing beside it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, load_model
from torch import nn

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.formats.safetensors import DTYPES
from surgery.checkpoint.writer import check_output, save
from surgery.errors import CheckpointError

both_formats = pytest.mark.parametrize("suffix", [".pt", ".safetensors"])

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: not name.endswith("_extra_state")
)
DTYPE_NAMES = st.sampled_from([*DTYPES.values()])
SHAPES = st.lists(st.integers(0, 3), max_size=3)


RECIPES = st.tuples(DTYPE_NAMES, SHAPES, st.randoms()).filter(
    lambda recipe: recipe[:2] != ("float4_e2m1fn_x2", [])
)
STATES = st.dictionaries(NAMES, RECIPES, max_size=4)


def tensor(dtype_name: str, shape: list[int], random: Random) -> torch.Tensor:
    """Random bits; made here and not by a strategy, as some dtypes cannot be printed."""
    dtype = getattr(torch, dtype_name)
    count = torch.Size(shape).numel() * dtype.itemsize
    if not count:
        return torch.empty(shape, dtype=dtype)
    flat = torch.tensor(list(random.randbytes(count)), dtype=torch.uint8)
    return (flat % 2 if dtype == torch.bool else flat).view(dtype).reshape(shape)


def bits(value: torch.Tensor) -> tuple[torch.dtype, torch.Size, list[int]]:
    return value.dtype, value.shape, value.contiguous().reshape(-1).view(torch.uint8).tolist()


@both_formats
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    recipes=STATES,
    metadata=st.dictionaries(
        st.sampled_from(["a", "note\n", "é"]), st.text(st.characters(exclude_categories=["Cs"]))
    ),
)
def test_what_is_saved_comes_back(
    suffix: str, recipes: dict[str, Any], metadata: dict[str, str], tmp_path: Path
) -> None:
    state = {name: tensor(*recipe) for name, recipe in recipes.items()}
    path = save(state, tmp_path / f"a{suffix}", metadata=metadata)
    checkpoint = open_checkpoint(path)
    read = checkpoint.state_dict()
    assert {name: bits(value) for name, value in read.items()} == {
        name: bits(value) for name, value in state.items()
    }
    assert {key: checkpoint.metadata[key] for key in metadata} == metadata
    other = torch.load(path, weights_only=True) if suffix == ".pt" else load_file(path)
    assert {name: bits(value) for name, value in other.items()} == {
        name: bits(value) for name, value in state.items()
    }
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


@both_formats
def test_ties_versions_and_metadata_are_kept(suffix: str, tmp_path: Path) -> None:
    model = Tied()
    checkpoint = open_checkpoint(save(model, tmp_path / f"a{suffix}", metadata={"by": "test"}))
    assert checkpoint.ties == (("first.weight", "second.weight"),)
    assert checkpoint.versions == {"": 1, "norm": 2, "first": 1, "second": 1}
    assert checkpoint.metadata["by"] == "test"
    state = checkpoint.state_dict()
    assert state._metadata["norm"] == {"version": 2}  # type: ignore[attr-defined]
    assert state["first.weight"].data_ptr() == state["second.weight"].data_ptr()
    again = open_checkpoint(save(state, tmp_path / f"b{suffix}", metadata=checkpoint.metadata))
    assert (again.ties, again.versions, again.metadata) == (
        checkpoint.ties,
        checkpoint.versions,
        checkpoint.metadata,
    )


def test_text_that_is_also_a_name_is_no_tie(tmp_path: Path) -> None:
    one = torch.ones(1)
    state, metadata = {"a": one, "tied": one, "b": torch.zeros(1)}, {"best": "b"}
    checkpoint = open_checkpoint(save(state, tmp_path / "x.safetensors", metadata=metadata))
    assert checkpoint.ties == (("a", "tied"),)
    assert checkpoint.metadata == {"best": "b", "format": "pt"}


@pytest.mark.parametrize("key", ["tied", "surgery.versions", "surgery.aliases"])
def test_metadata_may_not_take_a_key_that_is_needed(key: str, tmp_path: Path) -> None:
    one = torch.ones(1)
    with pytest.raises(CheckpointError, match="needs for itself"):
        save({"a": one, "tied": one}, tmp_path / "x.safetensors", metadata={key: "text"})


def test_other_tools_read_what_is_written(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    save(model, tmp_path / "a.pt", metadata={"by": "test"})
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert loaded._surgery == {"by": "test"}
    assert loaded._metadata["norm"] == {"version": 2}
    other.load_state_dict(loaded)
    save(model, tmp_path / "a.safetensors")
    fresh = Tied()
    load_model(fresh, tmp_path / "a.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
        assert torch.equal(fresh.state_dict()[name], value)


@both_formats
def test_views_are_written_by_value_and_left_alone(suffix: str, tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": base,
        "part": base[1:],
        "overlap": base[:2],
        "columns": base.t(),
        "expanded": base[:1].expand(5, 4),
        "parameter": nn.Parameter(base[2]),
        "conjugate": base.to(torch.complex64).conj(),
    }
    strides = {name: value.stride() for name, value in state.items()}
    read = open_checkpoint(save(state, tmp_path / f"a{suffix}")).state_dict()
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert {name: value.stride() for name, value in state.items()} == strides
    assert base.tolist() == torch.arange(12.0).reshape(3, 4).tolist()


def test_a_small_part_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1_000_000)[:2]}, tmp_path / "a.pt")
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    ("state", "name", "problem"),
    [
        pytest.param({"a": 3}, "x.pt", "a: expected a tensor, found int", id="number"),
        pytest.param({3: torch.ones(1)}, "x.pt", "3: expected text as its name", id="name"),
        pytest.param({"a": torch.ones(1, device="meta")}, "x.pt", "a: a meta tensor", id="meta"),
        pytest.param(
            {"a": torch.eye(2).to_sparse()}, "x.pt", "a: a tensor of layout sparse", id="sparse"
        ),
        pytest.param(
            {"a": torch.ones((), dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
            "x.safetensors",
            "a: a pair of 4-bit numbers",
            id="4-bit-scalar",
        ),
        pytest.param([torch.ones(1)], "x.pt", "found list", id="list"),
        pytest.param(
            {"a": torch.ones(1)}, "x.onnx", "no format has the suffix .onnx\n  choose", id="suffix"
        ),
        pytest.param({"a": torch.ones(1)}, "x", "the suffix (none)", id="no-suffix"),
        pytest.param(
            {"a": torch.ones(1, dtype=torch.complex128)},
            "x.safetensors",
            "no dtype complex128",
            id="dtype",
        ),
        pytest.param(
            {"__metadata__": torch.ones(1)},
            "x.safetensors",
            "'__metadata__': not a name",
            id="reserved",
        ),
        pytest.param(
            {"\ud800": torch.ones(1)}, "x.safetensors", "'\\ud800': not a name", id="surrogate"
        ),
        pytest.param(
            {"a._extra_state": {"b": 1}}, "x.safetensors", "save as .pt", id="extra-state"
        ),
        pytest.param({"a": torch.ones(1)}, "no/x.pt", "no folder", id="no-folder"),
        pytest.param({"a": torch.ones(1)}, "folder.pt", "a folder, and a file was", id="folder"),
    ],
)
def test_refusals_leave_nothing(state: Any, name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError) as caught:
        save(state, tmp_path / name)
    assert problem in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt"]


def test_every_refused_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        save({"a": 1, "b": torch.ones(1), "c": "x"}, tmp_path / "a.pt", metadata={"n": 1})  # type: ignore[dict-item]
    assert "a: expected a tensor" in caught.value.message
    assert caught.value.details == ("c: expected a tensor, found str", "metadata n: expected text")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("x.txt", "no format has the suffix .txt", id="suffix"),
        pytest.param("no/x.pt", "no folder", id="folder"),
    ],
)
def test_an_output_can_be_refused_before_any_work(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=problem):
        check_output(tmp_path / name)
    assert check_output(tmp_path / "x.pt") == tmp_path / "x.pt"
    assert list(tmp_path.iterdir()) == []


TWICE = r"""
import sys, torch
from surgery.checkpoint.writer import save
one = torch.ones(1)
metadata = {f"key {i}": f"text \u00e9\x7f\n {i}" for i in range(9)}
save({"b": one, "a": torch.ones(2).half(), "tied": one}, sys.argv[1], metadata=metadata)
"""


@both_formats
def test_equal_input_gives_equal_bytes(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{at}{suffix}" for at in range(2)]
    for path in paths:
        subprocess.run([sys.executable, "-c", TWICE, str(path)], check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert open_checkpoint(paths[0]).ties == (("b", "tied"),)


def test_extra_state_goes_into_torch_files(tmp_path: Path) -> None:
    save({"a": torch.ones(1), "m._extra_state": {"scale": 2}}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["m._extra_state"] == {"scale": 2}
    assert open_checkpoint(tmp_path / "a.pt").not_tensors == ("m._extra_state",)


@both_formats
def test_the_source_may_be_the_target(suffix: str, tmp_path: Path) -> None:
    path = save({"a": torch.arange(5.0), "b": torch.ones(3)}, tmp_path / f"a{suffix}")
    state = open_checkpoint(path).state_dict()
    del state["b"]
    save(state, path)
    assert open_checkpoint(path).state_dict()["a"].tolist() == [0, 1, 2, 3, 4]
    if suffix == ".pt":
        mapped = torch.load(path, mmap=True)
        save(mapped, path)
        assert open_checkpoint(path).tensor("a").tolist() == [0, 1, 2, 3, 4]


@both_formats
def test_a_symbolic_link_is_written_through(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / f"link{suffix}"
    link.symlink_to(Path("real") / f"a{suffix}")
    save({"a": torch.ones(1)}, link)
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == [f"a{suffix}"]


@both_formats
@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_modes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    before = os.umask(0o027)
    try:
        save({"a": torch.ones(1)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        save({"a": torch.zeros(1)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


LIMITED = """
import resource, signal, sys, torch
from surgery.checkpoint.writer import save
from surgery.errors import CheckpointError
torch.ones(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save({"a": torch.ones(1_000_000)}, sys.argv[1])
except CheckpointError as error:
    assert "cannot be written" in error.message, error
else:
    sys.exit("written")
"""


@both_formats
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limit here")
def test_a_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = save({"a": torch.ones(3)}, tmp_path / f"a{suffix}")
    old = path.read_bytes()
    subprocess.run([sys.executable, "-c", LIMITED, str(path)], check=True)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@both_formats
def test_ctrl_c_leaves_the_old_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save({"a": torch.ones(3)}, tmp_path / f"a{suffix}")
    old = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@both_formats
def test_ctrl_c_in_the_middle_of_the_values(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save({"a": torch.ones(3)}, tmp_path / f"a{suffix}")
    old = path.read_bytes()
    write, written = os.pwrite, []

    def interrupt(*args: Any) -> int:
        written.append(write(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save({"a": torch.zeros(100_000)}, path)
    assert written
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
