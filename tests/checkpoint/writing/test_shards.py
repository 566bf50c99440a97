"""Sets of shards: their sizes, their names, and what becomes of older ones."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery.checkpoint import writer
from surgery.checkpoint.writing import shards
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.shards import parse_size
from surgery.errors import CheckpointError, SurgeryError
from surgery.record import read_record
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (1, 1), ("7", 7), ("5GB", 5 * 10**9), ("500 MiB", 500 << 20), ("1.5kb", 1500),
        (" 2TiB ", 2 << 40), ("0.5KiB", 512), ("9" * 400 + "B", None),
    ],
)  # fmt: skip
def test_sizes(text, nbytes):
    assert parse_size(text) == nbytes if nbytes else parse_size(text) > 10**399


@pytest.mark.parametrize("text", ["", "0", "0.4", "-5", "5 G", "GB", "1e9", "5GBs", "inf", "1,000"])
def test_what_is_no_size(text):
    with pytest.raises(SurgeryError, match="is no size; expected bytes, or a number with MB"):
        parse_size(text)


def state(value=0.0, count=6):
    made = {f"layer.{i}": torch.full((100,), value + i) for i in range(count)}
    return {
        **made,
        "tied": made["layer.0"],
        "large": torch.full((1000,), value),
        "int": torch.tensor(3),
    }


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def by_index(path):
    """As transformers loads them: every file that the index names, with safetensors alone."""
    index = json.loads(path.read_text())
    loaded = {}
    for file in sorted(set(index["weight_map"].values())):
        held = load_file(path.parent / file)
        assert all(index["weight_map"][name] == file for name in held)
        loaded.update(held)
    assert loaded.keys() == index["weight_map"].keys()
    return loaded


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("most", "files"),
    [(10**6, 1), (4000, 3), (1000, 5), (1, 8), ("1KB", 5), ("6.4KB", 2)],
)  # fmt: skip
def test_no_shard_holds_more_than_was_asked_for(most, files, tmp_path):
    path = surgery.save(state(), tmp_path / "m.safetensors", max_shard_size=most)
    if files == 1:
        assert names(tmp_path) == ["m.safetensors"]
        return
    assert path.name == "m.safetensors.index.json"
    held = Counter()
    loaded = by_index(path)
    for name, file in json.loads(path.read_text())["weight_map"].items():
        held[file] += loaded[name].nbytes
    alone = Counter(json.loads(path.read_text())["weight_map"].values())
    assert all(size <= parse_size(most) or alone[file] == 1 for file, size in held.items())
    assert sorted(held) == [f"m-{i:05d}-of-{files:05d}.safetensors" for i in range(1, files + 1)]
    assert json.loads(path.read_text())["metadata"]["total_size"] == sum(held.values())
    opened = surgery.open_checkpoint(path)
    assert same(opened.state_dict(), state())
    assert opened.ties == (("layer.0", "tied"),)
    assert same(surgery.open_checkpoint(tmp_path).state_dict(), state())


def test_versions_metadata_and_record_survive(tmp_path):
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(30), torch.nn.Linear(30, 30))
    surgery.save(model, tmp_path / "old.pt", metadata={"by": "test"})
    opened = surgery.open_checkpoint(tmp_path / "old.pt")
    job = plan(TransferRequest(source=opened, target=f"like:{tmp_path}/old.pt"))
    outcome = job.write(tmp_path / "m.safetensors", max_shard_bytes=2000)
    assert len(outcome.files) == 4
    again = surgery.open_checkpoint(outcome.files[-1])
    record = read_record(again.metadata, again.specs)
    assert record is not None
    assert set(record.status.values()) == {"loaded"}
    assert again.versions["0"] == 2
    surgery.convert(outcome.files[-1], tmp_path / "one.pt")
    one = surgery.open_checkpoint(tmp_path / "one.pt")
    assert read_record(one.metadata, one.specs) == record
    assert one.versions == again.versions


def test_metadata_may_be_called_anything(tmp_path):
    given = {"total_size": "mine", "weight_map": "too"}
    index = surgery.save(state(), tmp_path / "m.safetensors", metadata=given, max_shard_size=1000)
    assert surgery.open_checkpoint(index).metadata == {**given, "format": "pt"}


def test_a_set_replaces_a_set_and_a_file(tmp_path):
    path = tmp_path / "m.safetensors"
    surgery.save(state(9.0), path)
    for value, most in ((1.0, 1000), (2.0, 4000), (3.0, 4000), (4.0, 10**6), (5.0, 1)):
        written = surgery.save(state(value), path, max_shard_size=most)
        assert same(surgery.open_checkpoint(written).state_dict(), state(value))
        assert same(surgery.open_checkpoint(tmp_path).state_dict(), state(value))
        files = {path.name}
        if written != path:
            files = {written.name, *json.loads(written.read_text())["weight_map"].values()}
        assert set(names(tmp_path)) == files


@pytest.mark.parametrize("other", ["m.2", "m-2", "m-00001-of-00002", "m2", "am"])
def test_sets_with_similar_names_are_others(other, tmp_path):
    for most in (1000, 4000, 1000):
        theirs = surgery.save(state(1.0), tmp_path / f"{other}.safetensors", max_shard_size=1000)
        ours = surgery.save(state(2.0), tmp_path / "m.safetensors", max_shard_size=most)
        assert same(surgery.open_checkpoint(theirs).state_dict(), state(1.0))
        assert same(surgery.open_checkpoint(ours).state_dict(), state(2.0))


def test_a_set_can_be_its_own_source(tmp_path):
    index = surgery.save(state(1.0), tmp_path / "m.safetensors", max_shard_size=1000)
    surgery.convert(index, tmp_path / "m.safetensors", max_shard_size=2000, dtype="float16")
    found = surgery.open_checkpoint(index).state_dict()
    assert found["layer.3"].dtype == torch.float16
    assert found["layer.3"][0] == 4


@pytest.mark.parametrize("at", range(1, 9))
def test_a_set_that_fails_to_get_its_names_leaves_the_old_one(at, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    index = surgery.save(state(1.0), path, max_shard_size=1000)
    before = names(tmp_path)
    replace, calls = os.replace, []

    def fail(*args):
        calls.append(args)
        if len(calls) == at:
            raise OSError(5, "Input/output error")
        return replace(*args)

    monkeypatch.setattr(os, "replace", fail)
    if at > 6:  # five shards and an index
        surgery.save(state(2.0), path, max_shard_size=1000)
        assert same(surgery.open_checkpoint(index).state_dict(), state(2.0))
        return
    with pytest.raises(CheckpointError, match="cannot be written: Input/output error"):
        surgery.save(state(2.0), path, max_shard_size=1000)
    assert names(tmp_path) == before
    assert same(surgery.open_checkpoint(index).state_dict(), state(1.0))


def test_an_old_shard_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    index = surgery.save(state(1.0), path, max_shard_size=1000)

    def fail(path, **_):
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(os, "unlink", fail)
    monkeypatch.setattr(
        "pathlib.Path.unlink", lambda self, missing_ok=False: self.exists() and fail(self)
    )
    with pytest.raises(CheckpointError, match="belongs to no set any more and cannot be removed"):
        surgery.save(state(2.0), path, max_shard_size=1000)
    monkeypatch.undo()
    assert same(surgery.open_checkpoint(index).state_dict(), state(2.0))


def test_what_no_shard_could_keep_is_refused_of_the_whole(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(CheckpointError, match=r"_extra_state: not a tensor, and safetensors"):
        surgery.save({**state(), "layer._extra_state": {"scale": 2}}, path, max_shard_size=1000)
    tied = {"a": torch.ones(9), "b": (last := torch.ones(9)), "c": last}
    with pytest.raises(CheckpointError, match="metadata c: a key that the file needs for itself"):
        surgery.save(tied, path, max_shard_size=36, metadata={"c": "of the second shard"})
    assert names(tmp_path) == []


def test_as_many_parts_as_tensors_are_cut_in_one_pass(tmp_path):
    class Counted(dict):
        passes = 0

        def items(self):
            Counted.passes += 1
            return super().items()

    one = torch.ones(1)
    draft = Draft(Counted({f"x{i}": one for i in range(300)}), (("x0", "x299"),))
    planned = shards.plan_shards(draft, tmp_path / "m.safetensors", 4)
    assert len(planned) == 299
    assert Counted.passes < 5
    assert list(next(iter(planned.values())).values) == ["x0", "x299"]


def test_a_set_has_the_mode_of_what_it_replaces(tmp_path):
    path = surgery.save(state(), tmp_path / "m.safetensors")
    path.chmod(0o600)
    for most in (1000, 4000, 10**6):
        surgery.save(state(), path, max_shard_size=most)
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_only_safetensors_is_written_in_shards(tmp_path):
    with pytest.raises(CheckpointError, match=r"only \.safetensors is written in shards"):
        surgery.save(state(), tmp_path / "m.pt", max_shard_size=1000)


def test_existing_files_are_found_before_any_work(tmp_path):
    path = tmp_path / "m.safetensors"
    surgery.save(state(), path, max_shard_size=4000)
    found = [file.name for file in writer.existing_outputs(path, in_shards=True)]
    assert found[0] == "m.safetensors.index.json"
    assert len(found) == 4
    assert writer.existing_outputs(path) == ()
    assert shards.existing(tmp_path / "n.safetensors") == ()


def test_one_file_does_not_go_beside_a_set_of_its_name(tmp_path):
    path = tmp_path / "m.safetensors"
    surgery.save(state(), path, max_shard_size=4000)
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=r"m\.safetensors\.index\.json beside it is a set"):
        surgery.save(state(), path)
    assert names(tmp_path) == before


WRITE = """
import sys
import torch
from surgery.checkpoint.writer import save
for turn in range(6):
    value = float(sys.argv[2]) + turn
    made = {f"layer.{i}": torch.full((20_000,), value) for i in range(4)}
    save(made, sys.argv[1], max_shard_size=int(sys.argv[3]) or None)
"""


@pytest.mark.parametrize("most", [0, 100_000], ids=["file", "set"])
def test_concurrent_writers_leave_one_whole_result(most, tmp_path):
    path = tmp_path / "m.safetensors"
    running = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(path), str(start), str(most)])
        for start in (10, 20)
    ]
    assert [process.wait() for process in running] == [0, 0]
    (value,) = {float(t.unique()) for t in surgery.open_checkpoint(tmp_path).state_dict().values()}
    assert value in (15.0, 25.0)
    assert len(names(tmp_path)) == (5 if most else 1)


def test_more_files_than_may_be_open_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_SHARDS", 3)
    with pytest.raises(CheckpointError, match="4 shards of at most 4 bytes, and no more than 3"):
        surgery.save(
            {f"x{i}": torch.ones(1) for i in range(4)}, tmp_path / "m.safetensors", max_shard_size=4
        )
    assert names(tmp_path) == []
