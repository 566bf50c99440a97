"""What is remembered of the installed libraries, and every way in which it must not be believed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from enum import IntEnum
from pathlib import Path

import numpy
import pytest
import torch

from surgery.errors import SurgeryWarning
from surgery.networks.remembered import Memory, arguments_key, code, memory, open_memory
from surgery.networks.remembered.code import Code, installed_code, trusted_code

ROOT = Path(__file__).parents[2]
HERE = Code("0" * 16, "1" * 32)
VALUE = {"names": ["resnet50", "vit"], "count": 2}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "installed_code", lambda: HERE)
    held = Memory(tmp_path / "cache", HERE)
    held.keep(VALUE, "key")
    return held


def path_of(held: Memory, key: str) -> Path:
    return held._path(memory._key_text((key,)))


def only_file(held: Memory) -> Path:
    (path,) = held.folder.iterdir()
    return path


class TestEntries:
    def test_what_is_kept_comes_back(self, kept):
        assert kept.recall("key") == VALUE
        assert kept.recall("another") is None

    def test_the_last_value_stands(self, kept):
        kept.keep(5, "key")
        assert kept.recall("key") == 5
        assert only_file(kept)

    def test_removed_is_gone_and_may_be_gone_already(self, kept):
        kept.forget("key")
        kept.forget("key")
        assert kept.recall("key") is None

    def test_no_byte_can_change(self, kept):
        path = only_file(kept)
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert kept.recall("key") is None, place
        path.write_bytes(whole)
        assert kept.recall("key") == VALUE

    def test_no_length_but_its_own(self, kept):
        path = only_file(kept)
        whole = path.read_bytes()
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            assert kept.recall("key") is None, end
        path.write_bytes(whole + b"\n")
        assert kept.recall("key") is None

    def test_what_belongs_to_another_key_is_not_taken(self, kept):
        kept.keep("its own", "another")
        shutil.copy(path_of(kept, "another"), path_of(kept, "key"))
        assert kept.recall("key") is None

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"[]", id="no-pair"),
            pytest.param(b"7", id="no-list"),
            pytest.param(b"{", id="no-json"),
            pytest.param(b"[" * 100_000, id="deep"),
            pytest.param(b"\xff", id="no-text"),
        ],
    )
    def test_a_whole_file_of_something_else(self, kept, body):
        only_file(kept).write_bytes(body if body == b"\xff" else zlib.compress(body))
        assert kept.recall("key") is None

    def test_a_small_file_that_unpacks_without_end(self, kept, monkeypatch):
        monkeypatch.setattr(memory, "_LONGEST_TEXT", 1000)
        kept.keep("a" * 2000, "key")
        assert kept.recall("key") is None

    def test_a_file_longer_than_any_value(self, kept, monkeypatch):
        monkeypatch.setattr(memory, "_LONGEST_FILE", only_file(kept).stat().st_size - 1)
        assert kept.recall("key") is None

    def test_a_folder_and_a_pipe_in_its_place(self, kept):
        path = only_file(kept)
        path.unlink()
        path.mkdir()
        assert kept.recall("key") is None
        kept.keep(VALUE, "key")  # cannot take its place
        path.rmdir()
        os.mkfifo(path)
        assert kept.recall("key") is None
        kept.keep(VALUE, "key")  # nor a pipe's, and nobody waits for it
        assert kept.recall("key") is None

    @pytest.mark.parametrize("place", ["file", "file/below", "link"])
    def test_a_folder_that_cannot_be(self, tmp_path, place):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "link")
        held = Memory(tmp_path / place, HERE)
        held.keep(VALUE, "key")
        held.forget("key")
        assert held.recall("key") is None
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_full_disk(self, kept, monkeypatch):
        def full(path, data):
            with path.open("wb") as file:
                file.write(data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        kept.keep(VALUE, "another")
        assert kept.recall("another") is None
        assert kept.recall("key") == VALUE
        assert only_file(kept)

    def test_other_code_in_the_same_place_is_swept_away(self, kept, monkeypatch):
        edited = Memory(kept.folder, Code(HERE.place, "2" * 32))
        elsewhere = Memory(kept.folder, Code("3" * 16, "2" * 32))
        monkeypatch.setattr(memory, "installed_code", lambda: elsewhere.code)
        elsewhere.keep("elsewhere", "key")
        assert edited.recall("key") is None
        assert kept.recall("key") == VALUE  # another environment's, left alone
        monkeypatch.setattr(memory, "installed_code", lambda: edited.code)
        edited.keep("edited", "key")
        assert kept.recall("key") is None
        assert [edited.recall("key"), elsewhere.recall("key")] == ["edited", "elsewhere"]

    def test_the_oldest_go_when_there_are_too_many(self, kept, monkeypatch):
        monkeypatch.setattr(memory, "MOST_ENTRIES", 3)
        kept.forget("key")
        for age in range(5):
            kept.keep(age, f"k{age}")
            os.utime(path_of(kept, f"k{age}"), times=(0, time.time() - 100 + age))
        kept.keep(9, "last")
        assert [kept.recall(f"k{age}") for age in range(5)] == [None, None, None, 3, 4]
        assert kept.recall("last") == 9

    def test_only_what_is_ours_is_swept(self, kept):
        names = ["notes.txt", "surgery-notes.entry", ".other.0123456789abcdef.tmp"]
        for name in names:
            (kept.folder / name).write_text("mine")
        (kept.folder / ".surgery.fedcba9876543210.tmp").write_text("half")  # of a killed process
        kept.keep(VALUE, "key")
        assert sorted(path.name for path in kept.folder.iterdir()) == sorted(
            [*names, only_entry(kept)]
        )

    def test_many_writers_at_once(self, tmp_path):
        """Whoever reads meanwhile gets one of the values, whole."""
        program = (
            "import sys; from pathlib import Path\n"
            "from surgery.networks.remembered.code import Code\n"
            "from surgery.networks.remembered import Memory, memory\n"
            "memory.installed_code = lambda: held.code\n"
            f"held = Memory(Path({str(tmp_path / 'cache')!r}), Code('0' * 16, '1' * 32))\n"
            "for _ in range(150): held.keep(sys.argv[1] * 3000, 'key')\n"
        )
        writers = [
            subprocess.Popen([sys.executable, "-c", program, letter], env=environment())
            for letter in "abc"
        ]
        held, seen = Memory(tmp_path / "cache", HERE), set()
        while any(writer.poll() is None for writer in writers):
            seen.add(held.recall("key"))
        seen.add(held.recall("key"))
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        # Before the first write there is nothing, and never after it.
        assert seen - {None} <= {letter * 3000 for letter in "abc"}
        assert held.recall("key") is not None
        assert only_file(held)


def only_entry(held: Memory) -> str:
    return path_of(held, "key").name


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages as they might be installed, in place of the real ones."""
    for file in ("nets/__init__.py", "nets/models/vit.py", "base/nn/linear.py", "base/far/io.py"):
        path = tmp_path / "site" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("WIDTH = 64\n")
    for package in ("nets", "base"):
        (tmp_path / "site" / package / "__init__.py").touch()
        (tmp_path / "site" / package / "version.py").write_text("__version__ = '1.0'\n")
    for package in ("nets", "base"):  # whoever imported a module of that name is asked first
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(code, "_PACKAGES", {"nets": ("",), "base": ("nn",)})
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def rewrite_in_secret(path: Path, text: str) -> None:
    """Other text of the same length, and the old times."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


EDITS = {
    "edited": lambda site: (site / "nets/models/vit.py").write_text("WIDTH = 128\n"),
    "touched": lambda site: os.utime(site / "nets/models/vit.py", ns=(1, 1)),
    "edited-with-size-and-time-kept": lambda site: rewrite_in_secret(
        site / "nets/models/vit.py", "WIDTH = 65\n"
    ),
    "added": lambda site: (site / "nets/models/more.py").write_text(""),
    "removed": lambda site: (site / "nets/models/vit.py").unlink(),
    "renamed": lambda site: (site / "nets/models/vit.py").rename(site / "nets/models/v.py"),
    "moved": lambda site: (site / "nets/models/vit.py").rename(site / "nets/vit.py"),
    "other-layers": lambda site: (site / "base/nn/linear.py").write_text(""),
    "other-version": lambda site: (site / "base/version.py").write_text("__version__ = '1.1'\n"),
}


class TestCode:
    def test_the_same_files_are_the_same_code(self, packages):
        assert installed_code() == installed_code()
        assert installed_code() is not None

    @pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
    def test_other_files_in_the_same_place(self, packages, edit):
        before = installed_code()
        edit(packages)
        after = installed_code()
        assert after.place == before.place
        assert after.state != before.state

    def test_versions_count_where_all_times_are_the_same(self, packages, monkeypatch):
        monkeypatch.setattr(code, "_files", lambda *_: iter(()))
        before = installed_code()
        rewrite_in_secret(packages / "nets/version.py", "__version__ = '1.1'\n")
        assert installed_code() != before

    def test_what_does_not_build_models_is_not_looked_at(self, packages):
        before = installed_code()
        (packages / "base/far/io.py").write_text("changed")
        (packages / "nets/models/__pycache__").mkdir()
        (packages / "nets/models/__pycache__/vit.py").write_text("")
        (packages / "nets/models/notes.txt").write_text("")
        assert installed_code() == before

    def test_another_place(self, packages, tmp_path, monkeypatch):
        before = installed_code()
        shutil.copytree(packages, tmp_path / "other")
        monkeypatch.syspath_prepend(tmp_path / "other")
        assert installed_code().place != before.place

    def test_linked_folders_are_followed_once(self, packages, tmp_path):
        (packages / "nets/models").rename(tmp_path / "models")
        (packages / "nets/models").symlink_to(tmp_path / "models")
        (tmp_path / "models/back").symlink_to(packages / "nets")
        before = installed_code()
        (tmp_path / "models/vit.py").write_text("changed")
        assert None is not installed_code() != before

    def test_a_dangling_link(self, packages):
        (packages / "nets/models/gone.py").symlink_to(packages / "nowhere.py")
        assert installed_code() is None

    @pytest.mark.parametrize("package", ["no_such_package", "fractions"])
    def test_a_package_that_is_no_folder(self, packages, monkeypatch, package):
        monkeypatch.setattr(code, "_PACKAGES", {package: ("",)})
        assert installed_code() is None

    def test_the_real_ones_can_be_told(self):
        assert installed_code() == installed_code()
        assert len(installed_code().state) == 32


class TestTrust:
    def test_what_others_imported_is_asked_itself(self, monkeypatch):
        """Torch is imported at the top of this file."""
        monkeypatch.setattr(code, "_imported", None)
        assert trusted_code() is None
        assert open_memory() == Memory()

    def test_what_surgery_imported_is_trusted(self, monkeypatch):
        now = installed_code()
        monkeypatch.setattr(code, "_imported", now)
        assert trusted_code() == now
        monkeypatch.setattr(code, "installed_code", lambda: HERE)  # upgraded meanwhile
        assert trusted_code() is None

    def test_another_default_dtype_makes_other_models(self, monkeypatch):
        monkeypatch.setattr(code, "_imported", installed_code())
        torch.set_default_dtype(torch.float64)
        try:
            assert trusted_code() is None
        finally:
            torch.set_default_dtype(torch.float32)

    def test_others_who_were_first_are_not_forgotten(self, monkeypatch):
        monkeypatch.setattr(code, "_imported", None)
        code.about_to_import(installed_code())
        assert trusted_code() is None

    def test_code_that_was_changed_while_it_ran_is_not_kept(self, kept, monkeypatch):
        kept.keep(1, "before")
        monkeypatch.setattr(memory, "installed_code", lambda: None)
        kept.keep(2, "after")
        assert [kept.recall("before"), kept.recall("after")] == [1, None]


class Three(IntEnum):
    THREE = 3


class TestKeys:
    def test_every_value_has_a_spelling_of_its_own(self):
        values = [1, 1.0, True, "1", None, "None", [1], (1,), [[1]], [1, 1], {"a": 1}, ["a", 1]]
        values += [-1, 0.1, 1e300, "", [], (), {}, ["dict"], ["tuple", 1], [("a", 1)]]
        spelled = {json.dumps(arguments_key({"x": value})) for value in values}
        assert len(spelled) == len(values)

    def test_arguments_are_told_apart_by_name(self):
        assert arguments_key({"a": 1}) != arguments_key({"b": 1})
        assert arguments_key({}) == "{}"

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(float("nan"), id="nan"),
            pytest.param(float("inf"), id="inf"),
            pytest.param(torch.nn.ReLU, id="class"),
            pytest.param(Three.THREE, id="enum"),
            pytest.param([object()], id="inside"),
            pytest.param(torch.float16, id="dtype"),
            pytest.param(numpy.float32(1), id="numpy"),
            pytest.param(10**5000, id="digits"),
        ],
    )
    def test_what_has_no_exact_spelling_is_not_remembered(self, value):
        assert arguments_key({"x": value}) is None

    def test_variables_that_steer_constructors_are_in_every_key(self, kept, monkeypatch):
        monkeypatch.delenv("TIMM_USE_NAFLEXVIT", raising=False)
        kept.keep("plain", "a")
        assert kept.recall("a") == "plain"
        monkeypatch.setenv("TIMM_USE_NAFLEXVIT", "true")
        assert kept.recall("a") is None


class TestFolder:
    @pytest.fixture(autouse=True)
    def _trusted(self, monkeypatch):
        for asked in ("installed_code", "trusted_code"):
            monkeypatch.setattr(memory, asked, lambda: HERE)

    def test_the_users_own(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SURGERY_CACHE_DIR")
        monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
        assert open_memory().folder == tmp_path / "model-surgery"

    def test_the_one_that_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path / "deep" / "down"))
        open_memory().keep(3, "x")
        assert open_memory().recall("x") == 3
        assert only_file(open_memory()).parent == tmp_path / "deep" / "down"

    def test_the_one_that_is_named_below_the_home_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SURGERY_CACHE_DIR", "~/kept")
        assert open_memory().folder == tmp_path / "kept"

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_one_that_others_can_write_to_is_not_believed(self, kept, monkeypatch, mode):
        monkeypatch.setenv("SURGERY_CACHE_DIR", str(kept.folder))
        kept.folder.chmod(mode)
        with pytest.warns(SurgeryWarning, match="others can write to it.*chmod go-w"):
            assert open_memory() == Memory()
        assert kept.recall("key") is None
        kept.keep("theirs", "key")
        kept.folder.chmod(0o755)
        assert kept.recall("key") == VALUE

    def test_another_users_is_not_believed(self, kept, monkeypatch):
        monkeypatch.setenv("SURGERY_CACHE_DIR", str(kept.folder))
        monkeypatch.setattr(os, "getuid", lambda: kept.folder.stat().st_uid + 1)
        with pytest.warns(SurgeryWarning, match="belongs to another user"):
            assert open_memory() == Memory()
        assert kept.recall("key") is None

    def test_a_file_that_others_can_write_to_is_not_believed(self, kept):
        only_file(kept).chmod(0o664)
        assert kept.recall("key") is None

    def test_what_is_kept_is_the_users_own_under_any_umask(self, kept):
        before = os.umask(0o002)
        try:
            kept.keep(5, "key")
        finally:
            os.umask(before)
        assert kept.recall("key") == 5

    def test_nobodys(self, monkeypatch):
        """Without a home folder, ``~`` stays what it is."""
        monkeypatch.delenv("SURGERY_CACHE_DIR")
        monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache", name))
        assert open_memory() == Memory()
        open_memory().keep(3, "x")
        assert open_memory().recall("x") is None


# --- a whole process, with libraries that tell when they are imported ---------------------------

LISTS = "import sys; print('imported', __name__, file=sys.stderr)\n"


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    return {**os.environ, "PYTHONPATH": paths, **more}


@pytest.fixture
def installed(tmp_path):
    """A folder of libraries that list two names each."""
    files = {
        "timm/__init__.py": LISTS + "from timm.names import *\n",
        "timm/names.py": "def list_models(): return ['both', 'only_timm']\n"
        "def list_pretrained(): return ['both.tag']\n",
        "torchvision/__init__.py": LISTS + "from torchvision import models\n",
        "torchvision/models.py": "def list_models(): return ['both', 'only_vision']\n",
        "torch/__init__.py": "",
        "torch/version.py": "__version__ = '9'\n",
        "torch/nn/__init__.py": "",
        "torch/fx/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "site"


def find(installed: Path, *names: str) -> tuple[list[str], set[str]]:
    """What the names are found to be, and which libraries were imported for it."""
    program = (
        "import sys\n"
        "from surgery.networks.architectures import find_architecture\n"
        "from surgery.errors import SurgeryError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(find_architecture(name))\n"
        "    except SurgeryError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(installed)])
    variables = {"PYTHONPATH": paths, "SURGERY_CACHE_DIR": str(installed.parent / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", program, *names],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines(), {line.split()[1] for line in ran.stderr.splitlines()}


NAMES = ("both", "timm:both", "timm:both.tag", "torchvision:only_vision", "only_vision", "bth")
FOUND = [
    "timm:both (also in torchvision)",
    "timm:both",
    "timm:both.tag",
    "torchvision:only_vision",
    "torchvision:only_vision",
    "neither timm nor torchvision has an architecture 'bth'; did you mean both?",
]


def each_entry(change):
    def change_all(installed):
        for path in sorted((installed.parent / "cache").iterdir()):
            change(path)

    return change_all


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap_all(installed: Path) -> None:
    """Each file is what was kept under another key."""
    paths = sorted((installed.parent / "cache").iterdir())
    held = [path.read_bytes() for path in paths]
    for path, data in zip(paths, held[1:] + held[:1], strict=True):
        path.write_bytes(data)


def become_file(installed: Path) -> None:
    shutil.rmtree(installed.parent / "cache")
    (installed.parent / "cache").write_text("")


#: What befalls the folder, and whether it can be used again after one more run.
DAMAGE = {
    "gone": (lambda installed: shutil.rmtree(installed.parent / "cache"), True),
    "emptied": (each_entry(lambda path: path.write_bytes(b"")), True),
    "truncated": (each_entry(lambda path: os.truncate(path, path.stat().st_size - 3)), True),
    "flipped": (each_entry(flip), True),
    "of-another-format": (
        each_entry(lambda p: p.write_bytes(b"another format\n" + p.read_bytes())),
        True,
    ),
    "under-another-key": (swap_all, True),
    "folders": (each_entry(become_folder), False),
    "a-file": (become_file, False),
}


class TestNames:
    def test_asked_for_once(self, installed):
        assert find(installed, *NAMES) == (FOUND, {"timm", "torchvision"})
        assert find(installed, *NAMES) == (FOUND, set())

    def test_one_library_is_not_imported_for_the_other(self, installed):
        assert find(installed, "timm:both") == (["timm:both"], {"timm"})
        assert find(installed, "torchvision:both") == (["torchvision:both"], {"torchvision"})
        assert find(installed, "both") == (FOUND[:1], set())

    @pytest.mark.parametrize(("damage", "usable"), DAMAGE.values(), ids=DAMAGE)
    def test_damage_is_built_again(self, installed, damage, usable):
        find(installed, *NAMES)
        damage(installed)
        assert find(installed, *NAMES) == (FOUND, {"timm", "torchvision"})
        assert find(installed, *NAMES) == (FOUND, set() if usable else {"timm", "torchvision"})

    def test_an_edited_library_is_asked_again(self, installed):
        assert find(installed, "timm:later")[0] != ["timm:later"]
        names = installed / "timm" / "names.py"
        names.write_text(names.read_text().replace("only_timm", "later"))
        assert find(installed, "timm:later", "timm:only_timm") == (
            ["timm:later", "timm has no architecture 'only_timm'"],
            {"timm"},
        )
        assert find(installed, "timm:later") == (["timm:later"], set())
        assert len(list((installed.parent / "cache").iterdir())) == 1  # the stale one is gone

    def test_another_installation_has_its_own(self, installed):
        find(installed, *NAMES)
        other = installed.with_name("other")
        shutil.copytree(installed, other)
        names = other / "timm" / "names.py"
        names.write_text(names.read_text().replace("only_timm", "elsewhere"))
        assert find(other, "timm:elsewhere") == (["timm:elsewhere"], {"timm"})
        assert find(installed, *NAMES) == (FOUND, set())
