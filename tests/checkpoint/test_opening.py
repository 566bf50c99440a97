"""Opening by content, choosing a state dict, and naming what is no checkpoint."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint import Checkpoint, open_checkpoint, read_contents
from surgery.checkpoint.writer import save
from surgery.errors import CheckpointError

W = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("name", "kind", "key", "count"),
    [
        pytest.param("zip.pt", "torch zip", None, 9, id="zip"),
        pytest.param("stream.pth", "torch stream", None, 9, id="stream"),
        pytest.param("python2.pkl", "torch stream", None, 8, id="python-2"),
        pytest.param("whole_module.pt", "torch zip", None, 9, id="whole-module"),
        pytest.param("lightning.ckpt", "torch zip", "state_dict", 9, id="lightning"),
        pytest.param("flat.safetensors", "safetensors", None, 9, id="safetensors"),
        pytest.param("tied.safetensors", "safetensors", None, 2, id="tied-safetensors"),
        pytest.param("tied.pt", "torch zip", None, 2, id="tied-zip"),
        pytest.param("sharded", "sharded safetensors", None, 9, id="sharded"),
        pytest.param("sharded_bin", "sharded torch zip", None, 9, id="sharded-bin"),
    ],
)
def test_the_kept_files_open(
    name: str, kind: str, key: str | None, count: int, fixtures: Path
) -> None:
    checkpoint = open_checkpoint(fixtures / name)
    assert (checkpoint.format, checkpoint.key, len(checkpoint.specs)) == (kind, key, count)
    assert len(checkpoint.state_dict()) == count


def test_the_script_still_makes_the_kept_files(tmp_path: Path, fixtures: Path) -> None:
    script = fixtures.parent / "make_checkpoints.py"
    runpy.run_path(str(script))["make"](tmp_path)
    made, kept = (
        {path.relative_to(root) for path in root.rglob("*")} for root in (tmp_path, fixtures)
    )
    assert made == kept


def test_the_suffix_says_nothing(fixtures: Path, tmp_path: Path) -> None:
    for name, disguise in [
        ("zip.pt", "a.safetensors"),
        ("flat.safetensors", "b.pt"),
        ("stream.pth", "c"),
    ]:
        shutil.copy(fixtures / name, tmp_path / disguise)
        assert (
            open_checkpoint(tmp_path / disguise).format == open_checkpoint(fixtures / name).format
        )


def test_opening_does_not_import_torch(fixtures: Path) -> None:
    code = (
        "import sys; from surgery.checkpoint import open_checkpoint, read_contents\n"
        "for name in sys.argv[1:]: open_checkpoint(name); read_contents(name)\n"
        "assert 'torch' not in sys.modules"
    )
    names = [
        str(fixtures / name) for name in ("zip.pt", "stream.pth", "flat.safetensors", "sharded")
    ]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *names], check=True)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        pytest.param(W, None, id="flat"),
        pytest.param({"state_dict": W, "epoch": 3}, "state_dict", id="state_dict"),
        pytest.param({"model": W, "optimizer": OPTIMIZER}, "model", id="model"),
        pytest.param({"model_state_dict": W, "loss": 0.1}, "model_state_dict", id="tutorial"),
        pytest.param({"ema": {"state_dict": W}}, "ema.state_dict", id="nested"),
        pytest.param({"a": {"b": {"c": W}}}, "a.b.c", id="three-deep"),
        pytest.param({"net": W, "scaler": {"scale": torch.ones(1)}}, "net", id="scaler"),
        pytest.param({"net": W, "rng_state": {"cpu": torch.ones(1)}}, "net", id="rng"),
        pytest.param(
            {"net": W, "callbacks": {"c": {"best": torch.ones(1)}}}, "net", id="callbacks"
        ),
        pytest.param({"net": W, "optim_d": {"m": torch.ones(1)}}, "net", id="optim"),
        pytest.param({"net": W, "opt": OPTIMIZER}, "net", id="optimizer-by-its-looks"),
        pytest.param({"net": W, "optimisers": {"m": torch.ones(1)}}, "net", id="optimisers"),
        pytest.param({"net": W, "mean": torch.ones(3), "std": torch.ones(3)}, "net", id="stats"),
        pytest.param({**W, "x._extra_state": {"s": torch.ones(1)}}, None, id="extra-state"),
        pytest.param({**W, "version": 3}, None, id="mostly-tensors"),
        pytest.param({"model": W, "also": W}, "model", id="one-dictionary-under-two-keys"),
        pytest.param({}, None, id="empty"),
        pytest.param(OrderedDict(), None, id="empty-ordered"),
    ],
)
def test_the_one_state_dict_is_found(value: Any, key: str | None, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").key == key


def test_several_state_dicts_are_never_chosen_from(
    fixtures: Path, refusal: Callable[..., str]
) -> None:
    path = fixtures / "timm_ema.pth.tar"
    message = refusal(path)
    assert "choose one with key= or --key" in message
    assert "state_dict: 9 tensors" in message
    assert "state_dict_ema: 9 tensors" in message
    assert open_checkpoint(path, key="state_dict_ema").key == "state_dict_ema"
    assert open_checkpoint(path, key="state_dict").opaque[0] == "argparse.Namespace"


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        pytest.param({**W, "ema": dict(W)}, ["ema", "."], id="ema-inside"),
        pytest.param(
            {**W, "class_weights": {"a": torch.ones(1)}}, ["class_weights", "."], id="class-weights"
        ),
        pytest.param(
            {"a": torch.ones(1), "b": torch.ones(1), "ema": {"a": torch.ones(1)}},
            ["ema", "."],
            id="names-without-dots",
        ),
        pytest.param({"model": W, "optimal_model": dict(W)}, ["model", "optimal_model"], id="best"),
    ],
)
def test_a_model_is_never_dropped_for_what_lies_in_or_beside_it(
    value: Any, keys: list[str], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    torch.save(value, tmp_path / "a.pt")
    lines = refusal(tmp_path / "a.pt").splitlines()[1:]
    assert [line.strip().partition(":")[0] for line in lines] == keys
    opened = [open_checkpoint(tmp_path / "a.pt", key=key) for key in keys]
    assert [checkpoint.key or "." for checkpoint in opened] == keys


@pytest.mark.parametrize("value", [W, {"net": W, "mean": torch.ones(3), "std": torch.ones(3)}])
def test_the_key_of_the_file_itself(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt", key=".")
    assert checkpoint.key is None
    assert [spec.name for spec in checkpoint.specs] == [
        name for name, entry in value.items() if isinstance(entry, torch.Tensor)
    ]


@pytest.mark.parametrize(
    ("value", "key", "problem"),
    [
        pytest.param({"model": W}, "modell", "key modell; did you mean model", id="nearest"),
        pytest.param({"model": W}, "zzz", "  model: 2 tensors", id="candidates"),
        pytest.param(W, "model", "  .: 2 tensors (the file itself)", id="flat"),
        pytest.param(OPTIMIZER, None, "holds no state dict\n  an optimizer state", id="optimizer"),
        pytest.param(
            {"epoch": 3, "lr": 0.1}, None, "  epoch: int 3\n  lr: float 0.1", id="numbers"
        ),
        pytest.param([1, 2], None, "holds no state dict\n  list of 2", id="list"),
        pytest.param(torch.ones(2, 3), None, "float32 tensor 2x3", id="bare-tensor"),
        pytest.param({"a": {"b": {"c": {"d": W}}}}, None, "a: dict of 1 (b)", id="too-deep"),
    ],
)
def test_no_such_state_dict(
    value: Any, key: str | None, problem: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    torch.save(value, tmp_path / "a.pt")
    assert problem in refusal(tmp_path / "a.pt", key)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        pytest.param({"net": W, "optim_ema": W.copy()}, "optim_ema", id="below-optim"),
        pytest.param({"net": W, "few": {"a": torch.ones(1), "b": 1, "c": 2}}, "few", id="few"),
        pytest.param(
            {"net": W, "v1.0": {"ema.x": {**W, 3: 4, "c": 2, "d": 5}}}, "v1.0.ema.x", id="dots"
        ),
    ],
)
def test_a_key_reaches_what_the_search_leaves_out(value: Any, key: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt", key=key)
    assert checkpoint.key == key
    assert checkpoint.specs


def tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"\n<!DOCTYPE html><html>", "an HTML page", id="html"),
        pytest.param(b"<?xml version='1.0'?><Error/>", "an XML document", id="xml"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\n", "a git-LFS pointer", id="lfs"
        ),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG image", id="png"),
        pytest.param(gzip.compress(b"x"), "a gzip file", id="gzip"),
        pytest.param(tar(Path()), "a tar archive", id="tar"),
        pytest.param(b"\x89HDF\r\n\x1a\n", "an HDF5 file", id="hdf5"),
        pytest.param(b"GGUF\x03\0\0\0", "a GGUF file", id="gguf"),
        pytest.param(b"hello", "it begins with 'hello'", id="text"),
        pytest.param(b"\x00\x1b[31m", "it begins with '\\x00\\x1b[31m'", id="escapes"),
        pytest.param(
            pickle.dumps({"a": 1}, 2),
            "a plain pickle, not written by torch.save: dict of 1 (a)",
            id="pickle",
        ),
        pytest.param(pickle.dumps(7, 4), "torch.save: int 7", id="pickle-4"),
        pytest.param(b"\x80\x04\xff", "damaged at byte 2", id="damaged-pickle"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_is_no_checkpoint_is_named(
    data: bytes, problem: str, name: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path / name)
    assert problem in message or "safetensors header" in message
    assert message.isprintable()


def test_a_key_that_holds_something_else_is_told(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="epoch holds int 3, no state dict"):
        open_checkpoint(tmp_path / "x.pt", key="epoch")


def test_a_trainers_folder_is_its_model(tmp_path: Path, fixtures: Path) -> None:
    """transformers' Trainer keeps its optimizer, arguments and random state beside the model."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    shutil.copy(fixtures / "flat.safetensors", tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({"last_epoch": 3, "_last_lr": [0.1]}, tmp_path / "scheduler.pt")
    torch.save(argparse.Namespace(lr=0.1), tmp_path / "training_args.bin")
    torch.save({"cpu": torch.get_rng_state(), "python": (3, 4)}, tmp_path / "rng_state.pth")
    assert open_checkpoint(tmp_path).path == tmp_path / "model.safetensors"


def test_folders(tmp_path: Path, fixtures: Path, refusal: Callable[..., str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "a folder without a checkpoint" in refusal(folder)
    shutil.copy(fixtures / "zip.pt", folder / "zip.pt")
    assert open_checkpoint(folder).path == folder / "zip.pt"
    (folder / "zip.pt").rename(folder / "last.pth.tar")
    assert open_checkpoint(folder).path == folder / "last.pth.tar"
    (folder / "last.pth.tar").rename(folder / "zip.pt")
    shutil.copy(fixtures / "zip.pt", folder / "last.ckpt")
    message = refusal(folder)
    assert "a folder with 2 checkpoints; name one of them\n  last.ckpt\n  zip.pt" in message


def test_only_shards_belong_to_an_index(tmp_path: Path, refusal: Callable[..., str]) -> None:
    index = save(W, tmp_path / "model.safetensors", max_shard_size=1)
    assert open_checkpoint(tmp_path).path == index
    save(W, tmp_path / "model-best.safetensors")
    assert refusal(tmp_path).endswith(f"{index.name}\n  model-best.safetensors")


def test_paths_that_lead_nowhere(tmp_path: Path, refusal: Callable[..., str]) -> None:
    save(W, tmp_path / "model.pt")
    (tmp_path / "dangling.pt").symlink_to("nothing.pt")
    assert "no such file; did you mean model.pt" in refusal(tmp_path / "modle.pt")
    assert "no folder" in refusal(tmp_path / "missing" / "model.pt")
    assert "a link to a file that does not exist" in refusal(tmp_path / "dangling.pt")
    assert "cannot be read" in refusal(tmp_path / ("x" * 260))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path, refusal: Callable[..., str]) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "a named pipe, not a file" in refusal(tmp_path / "pipe.pt")


def test_names_are_never_printed_as_commands(tmp_path: Path, refusal: Callable[..., str]) -> None:
    torch.save({"\x1b[2Jmodel": W, "ema\n": {"b": torch.ones(1)}}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert "\\x1b[2Jmodel: 2 tensors" in message
    assert "\x1b" not in message
    with pytest.raises(CheckpointError, match=r"\\x1b"):
        open_checkpoint(tmp_path / "a.pt", key="ema\n").tensor("\x1b[2J")


@pytest.fixture
def opened(tmp_path: Path) -> Checkpoint:
    save(W, tmp_path / "a.pt")
    return open_checkpoint(str(tmp_path / "a.pt"))


def test_a_missing_tensor_is_named_with_the_nearest(opened: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"called a\.wieght; did you mean a\.weight"):
        opened.tensor("a.wieght")


def test_tensors_are_the_callers_own(opened: Checkpoint) -> None:
    opened.tensor("a.weight").zero_()
    assert opened.tensor("a.weight").tolist() == [1, 1]


def test_a_checkpoint_is_frozen(opened: Checkpoint) -> None:
    with pytest.raises(FrozenInstanceError):
        opened.key = "other"  # type: ignore[misc]


def test_a_file_that_changed_since_is_refused(opened: Checkpoint) -> None:
    save({**W, "c": torch.ones(9)}, opened.path)
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        opened.tensor("a.weight")
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        opened.state_dict()


def test_contents(fixtures: Path) -> None:
    path = fixtures / "timm_ema.pth.tar"
    contents = read_contents(path)
    assert (contents.format, contents.size) == ("torch zip", path.stat().st_size)
    assert [(state.key, len(state.specs)) for state in contents.state_dicts] == [
        ("state_dict", 9),
        ("state_dict_ema", 9),
    ]
    others = dict(contents.others)
    assert others["epoch"] == "int 7"
    assert others["args"] == "argparse.Namespace (opaque)"
    assert others["optimizer"] == "an optimizer state"
    assert "argparse.Namespace" in contents.opaque


def test_contents_name_what_has_no_spec(tmp_path: Path) -> None:
    state = {**W, "s": torch.eye(2).to_sparse(), "step": 3}
    torch.save({"model": state}, tmp_path / "a.pt")
    (found,) = read_contents(tmp_path / "a.pt").state_dicts
    assert found.key == "model"
    assert found.unlisted == (("s", "a sparse tensor"), ("step", "not a tensor"))


def test_contents_of_shards_count_them_all(fixtures: Path) -> None:
    shards = (fixtures / "sharded").glob("*.safetensors")
    assert read_contents(fixtures / "sharded").size == sum(path.stat().st_size for path in shards)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_fifty_thousand_tensors_take_seconds(suffix: str, tmp_path: Path) -> None:
    value = torch.ones(1)
    save({f"layers.{i}.weight": value.clone() for i in range(50_000)}, tmp_path / f"a{suffix}")
    assert len(open_checkpoint(tmp_path / f"a{suffix}").specs) == 50_000
