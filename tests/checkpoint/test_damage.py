"""Any file, however damaged: it opens, or it is refused by CheckpointError; nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.checkpoint import open_checkpoint, read_contents
from surgery.errors import CheckpointError

FILES = [
    "zip.pt",
    "stream.pth",
    "python2.pkl",
    "whole_module.pt",
    "tied.safetensors",
    "lightning.ckpt",
]
modest = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_everything(path: Path) -> None:
    with suppress(CheckpointError):
        read_contents(path)
    with suppress(CheckpointError):
        checkpoint = open_checkpoint(path)
        for spec in checkpoint.specs:
            with suppress(CheckpointError):
                checkpoint.tensor(spec.name)


@modest
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_changed_bytes(name: str, data: st.DataObject, fixtures: Path, tmp_path: Path) -> None:
    content = bytearray((fixtures / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / "a.bin").write_bytes(content)
    read_everything(tmp_path / "a.bin")


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(name: str, fixtures: Path, tmp_path: Path) -> None:
    content = (fixtures / name).read_bytes()
    for size in range(0, len(content), 1 + len(content) // 150):
        (tmp_path / "a.bin").write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "a.bin")


@modest
@given(content=st.binary(max_size=200))
def test_any_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    read_everything(tmp_path / "a.bin")
