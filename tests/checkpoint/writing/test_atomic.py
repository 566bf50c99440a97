"""A file is replaced in one step; drafts of the dead are removed, those of the living are not."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from surgery.checkpoint.writer import save
from surgery.checkpoint.writing import atomic
from surgery.checkpoint.writing.atomic import replacing
from surgery.errors import CheckpointError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX modes and locks")


def write(path, text="new", **settings):
    with replacing(path, **settings) as draft:
        draft.write_text(text)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def old(tmp_path):
    (tmp_path / "a").write_text("old")
    return tmp_path / "a"


def test_the_old_file_stays_until_the_end(old, tmp_path):
    with replacing(old) as draft:
        draft.write_text("new")
        assert old.read_text() == "old"
    assert (old.read_text(), names(tmp_path)) == ("new", ["a"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_all_as_it_was(error, old, tmp_path):
    def stopped():
        with replacing(old) as draft:
            draft.write_text("new")
            raise error

    with pytest.raises(error):
        stopped()
    assert (old.read_text(), names(tmp_path)) == ("old", ["a"])


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_call_is_named_and_leaves_all_as_it_was(call, code, old, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError) as caught:
        write(old)
    assert caught.value.message == f"{old}: cannot be written: {os.strerror(code)}"
    monkeypatch.undo()
    assert (old.read_text(), names(tmp_path)) == ("old", ["a"])


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o200, 0o4755])
def test_the_mode_of_the_old_file_is_kept(mode, old):
    old.chmod(mode)
    with replacing(old) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600  # nobody else's to read meanwhile
        draft.write_text("new")
    assert stat.S_IMODE(old.stat().st_mode) == mode


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_new_file_has_the_mode_that_the_umask_gives(umask, tmp_path):
    before = os.umask(umask)
    try:
        write(tmp_path / "b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o666 & ~umask


def test_links(old, tmp_path):
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "hard").hardlink_to(old)
    write(tmp_path / "soft")
    assert (tmp_path / "soft").is_symlink()
    assert (old.read_text(), (tmp_path / "hard").read_text()) == ("new", "old")


@pytest.mark.parametrize("name", ["字" * 80, "x" * 255, "new\nline", ".hidden", "\udcff"])
def test_names_of_every_kind(name, tmp_path):
    for text in ("one", "two"):
        write(tmp_path / name, text)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "two"


@pytest.mark.parametrize("name", ["x" * 256, "a/b", "no/b", "folder", "pipe"])
def test_what_cannot_be_a_file_is_refused(name, old, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"cannot be written|no folder|a folder|a named pipe"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a", "folder", "pipe"]


HOLD = """
import sys, time
from pathlib import Path
from surgery.checkpoint.writing.atomic import replacing
with replacing(Path(sys.argv[1])) as draft:
    draft.write_text("theirs")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(old):
    """Another process in the middle of writing the same file."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(old)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_the_draft_of_a_living_process_is_left_alone(old, holder, tmp_path):
    write(old, "ours")
    assert len(names(tmp_path)) == 2
    holder.stdin.close()
    assert holder.wait() == 0
    assert (old.read_text(), names(tmp_path)) == ("theirs", ["a"])


def test_the_draft_of_a_killed_process_is_removed(old, holder, tmp_path):
    holder.kill()
    holder.wait()
    (tmp_path / ".a.0123456789abcdeg.tmp").write_text("somebody's own")
    (tmp_path / ".ab.0123456789abcdef.tmp").write_text("of another file")
    assert len(names(tmp_path)) == 4
    write(old, "ours")
    assert names(tmp_path) == [".a.0123456789abcdeg.tmp", ".ab.0123456789abcdef.tmp", "a"]


def test_drafts_of_parts_are_swept_with_any_other_part(tmp_path):
    (tmp_path / ".whole.0123456789abcdef.tmp").write_text("of a part")
    write(tmp_path / "part-2", part_of="whole")
    assert names(tmp_path) == ["part-2"]


def test_a_draft_that_is_a_link_is_not_followed(old, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".a.0123456789abcdef.tmp").symlink_to("mine")
    write(old)
    assert (tmp_path / "mine").read_text() == "mine"


def test_two_drafts_of_one_process(old, tmp_path):
    with replacing(old) as one, replacing(old) as other:
        one.write_text("one")
        other.write_text("other")
    assert (old.read_text(), names(tmp_path)) == ("one", ["a"])


def test_where_there_are_no_locks_nothing_is_swept(old, tmp_path, monkeypatch):
    (tmp_path / ".a.0123456789abcdef.tmp").write_text("whose?")
    monkeypatch.setattr(atomic, "lock", lambda *_, **__: None)
    write(old)
    assert names(tmp_path) == [".a.0123456789abcdef.tmp", "a"]


@pytest.fixture
def open_folder():
    """Where anyone may look: pytest's own folders are closed to others."""
    with TemporaryDirectory() as name:
        yield Path(name)


AS_NOBODY = """
import os, sys
from pathlib import Path
from surgery.checkpoint.writing.atomic import replacing
from surgery.errors import CheckpointError
os.setgid(65534); os.setuid(65534)
try:
    with replacing(Path(sys.argv[1])) as draft:
        draft.write_text("new")
except CheckpointError as error:
    print(error.message)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        pytest.param(0o555, "cannot be written: Permission denied", id="read-only"),
        pytest.param(0o733, "", id="not-to-be-listed"),
    ],
)
def test_folders_of_others(mode, said, open_folder):
    folder = open_folder
    folder.chmod(mode)
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(folder / "a")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said in ran.stdout
    assert names(folder) == ([] if said else ["a"])
    assert bool(ran.stdout) == bool(said)


def test_a_folder_that_cannot_be_flushed(old, monkeypatch):
    """Some network folders refuse; a disk that fails is another thing."""
    fsync = os.fsync

    def picky(code):
        def call(file):
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(code, os.strerror(code))
            fsync(file)

        return call

    monkeypatch.setattr(os, "fsync", picky(errno.EINVAL))
    write(old)
    assert old.read_text() == "new"
    monkeypatch.setattr(os, "fsync", picky(errno.EIO))
    with pytest.raises(CheckpointError, match="Input/output error"):
        write(old, "newer")
    assert Path(old).read_text() == "newer"


@pytest.mark.parametrize("size", [None, 1])
def test_a_read_only_file_system_is_told_by_the_file_to_be_written(size, tmp_path, monkeypatch):
    """Such a system refuses to remove even what is not there, and that must not be what is told."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    state = {"a": torch.ones(2), "b": torch.ones(2)}
    with monkeypatch.context() as read_only:
        read_only.setattr(atomic, "_create", refuse)
        read_only.setattr(os, "unlink", refuse)
        read_only.setattr(Path, "unlink", refuse)
        with pytest.raises(
            CheckpointError, match=r"x\.safetensors.*: cannot be written: Read-only"
        ):
            save(state, tmp_path / "x.safetensors", max_shard_size=size)
    assert names(tmp_path) == []
