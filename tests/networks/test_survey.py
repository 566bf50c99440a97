"""Outlines of architectures: built by processes of their own, kept, and interrupted."""

from __future__ import annotations

import os
import subprocess

import pytest

from surgery.errors import ArchitectureError
from surgery.networks import survey as surveying
from surgery.networks.outlining import outline
from surgery.networks.survey import survey

LABELS = ("timm:resnet18", "timm:test_vit", "torchvision:squeezenet1_1")


class Watch:
    """Counts what is built; stops after ``enough``, as Ctrl-C does."""

    def __init__(self, enough: int | None = None) -> None:
        self.enough = enough
        self.heard: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.heard.append((done, total))
        if done == self.enough:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache that knows LABELS, made by an interrupted survey and one that went on."""
    folder = tmp_path_factory.mktemp("outlines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGERY_CACHE_DIR", str(folder))
        patch.setattr(surveying, "MOST_WORKERS", 1)
        first = Watch(enough=1)
        with pytest.raises(KeyboardInterrupt):
            survey(LABELS, progress=first)
        second = Watch()
        survey(LABELS, progress=second)
    assert first.heard == [(0, 3), (1, 3)]
    assert second.heard == [(0, 2), (1, 2), (2, 2)]  # the first is remembered
    return folder


@pytest.fixture
def cache(folder, monkeypatch):
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("everything is remembered")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_what_is_remembered_is_what_is_built(cache, no_process):
    assert survey(LABELS) == tuple(map(outline, LABELS))


def test_an_outline(cache, no_process):
    (found,) = (one for one in survey(LABELS) if one.architecture == "timm:resnet18")
    assert found.heads == ("fc",)
    assert found.tensors["layer1.0.conv1.weight"] == (64, 64, 3, 3)
    assert not any("num_batches_tracked" in name for name in found.tensors)


def test_a_damaged_entry_is_built_again(cache, monkeypatch, tmp_path):
    mine = tmp_path / "damaged"
    mine.mkdir()
    for entry in cache.iterdir():
        (mine / entry.name).write_bytes(entry.read_bytes())
    largest = max(mine.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(mine))
    watch = Watch()
    assert {one.architecture for one in survey(LABELS, progress=watch)} == set(LABELS)
    assert watch.heard[-1] == (len(LABELS), len(LABELS))
    assert largest.read_bytes() != bytes(data)


@pytest.mark.parametrize(
    "value",
    [
        5,
        {},
        [5],
        [{}],
        [["timm:a"]],
        [{"architecture": "timm:a", "tensors": {}, "heads": [], "problem": 5}],
        [{"architecture": "timm:a", "tensors": [], "heads": [], "problem": ""}],
        [{"architecture": "timm:a", "tensors": {"a": [-1]}, "heads": [], "problem": ""}],
        [{"architecture": "timm:a", "tensors": {"a": 5}, "heads": [], "problem": ""}],
    ],
    ids=str,
)
def test_an_entry_of_another_form_is_nothing(monkeypatch, tmp_path, value):
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path))
    memory = surveying.open_memory(fresh=True)
    memory.keep(value, "outlines")
    assert memory.recall("outlines") == value
    assert not surveying._recall(memory)


def test_another_architecture_costs_none_of_the_others(cache, monkeypatch, tmp_path):
    mine = tmp_path / "more"
    mine.mkdir()
    for entry in cache.iterdir():
        (mine / entry.name).write_bytes(entry.read_bytes())
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(mine))
    watch = Watch()
    assert len(survey([*LABELS, "timm:test_resnet"], progress=watch)) == 4
    assert watch.heard == [(0, 1), (1, 1)]


def test_what_cannot_be_built_is_said_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path))
    known = survey(["timm:resnet1789"])
    (outlined,) = known
    assert (outlined.architecture, outlined.tensors) == ("timm:resnet1789", {})
    assert "timm has no architecture 'resnet1789'" in outlined.problem
    watch = Watch()
    assert survey(["timm:resnet1789"], progress=watch) == known
    assert not watch.heard


def test_a_process_that_dies_is_an_error_that_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "torch.py").write_text("raise RuntimeError('no torch today')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArchitectureError) as caught:
        survey(["timm:resnet18"])
    (detail,) = caught.value.details
    assert detail == (
        "timm:resnet18: its process ended with exit code 1: RuntimeError: no torch today"
    )


def test_the_folder_one_stands_in_is_nobodys_library(monkeypatch, tmp_path):
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise RuntimeError('not mine')")
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109
    assert [one.architecture for one in survey(["timm:resnet18"])] == ["timm:resnet18"]
