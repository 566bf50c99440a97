"""The faults of files, row by row, through the command line.

``rowNN`` in a name is the row of the table of faults that this project keeps: a stranger's file
or an unlucky moment, and what is wanted then. Every refusal has a non-zero exit code, one line
that names the cause, no output file, and leaves every file as it was. What single readers say of
single faults has tests of its own beside this one.
"""

from __future__ import annotations

import argparse
import fractions
import io
import json
import os
import pickle
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from strangers import (
    STORAGE,
    VIEW,
    WIDE,
    archive_of,
    deep,
    dict_of,
    members_of,
    number,
    safetensors_of,
    stream_of,
    tensor,
    text,
    zip_of,
)
from surgery_cli.main import surgery as command

import surgery
from surgery.errors import CheckpointError, DamageRefused
from surgery.specs import DTYPE_BITS

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

Run = Callable[..., Result]
SURGERY = [sys.executable, "-m", "surgery_cli"]
GOOD = "good.safetensors"
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3) + 1, "a.bias": torch.tensor([7.0, 8.0])}
both_formats = pytest.mark.parametrize("suffix", ["pt", "safetensors"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``surgery ...`` in a folder with a good checkpoint."""
    monkeypatch.chdir(tmp_path)
    surgery.save(WEIGHTS, tmp_path / GOOD)
    return lambda *words: CliRunner().invoke(command, [str(word) for word in words])


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else stat.S_IFMT(path.lstat().st_mode)
        )
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(run: Run, cause: str, *words: object) -> list[str]:
    """The command ends as every refusal ends; returns the lines below the cause."""
    before = snapshot(Path())
    result = run(*words)
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    first, *details = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert cause in first
    assert all(line.startswith("  ") for line in details)
    assert result.stderr.replace("\n", "").isprintable()
    assert snapshot(Path()) == before
    return details


def assert_unusable(run: Run, cause: str, name: object) -> None:
    """Every command that reads a checkpoint refuses this one, whichever side it is on."""
    assert_refused(run, cause, "inspect", name)
    assert_refused(run, cause, "diff", GOOD, name)
    assert_refused(run, cause, "transfer", name, f"like:{GOOD}", "-o", "out.safetensors")
    assert_refused(run, cause, "transfer", GOOD, f"like:{name}", "-o", "out.pt")


def inspected(run: Run, name: object) -> dict[str, Any]:
    result = run("inspect", name, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def bits(value: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return value.dtype, tuple(value.shape), data if value.numel() else b""


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert {n: bits(v) for n, v in one.items()} == {n: bits(v) for n, v in other.items()}


def transferred(run: Run, source: object, out: str, *words: object) -> dict[str, torch.Tensor]:
    """The source moved into a file of its own names, as plain torch or safetensors reads it."""
    result = run("transfer", source, f"like:{source}", "-o", out, "--strict", *words)
    assert result.exit_code == 0, result.stderr
    if out.endswith(".safetensors"):
        return safetensors.torch.load_file(out)
    return dict(torch.load(out, weights_only=True))


def saved(value: Any, name: str, **how: Any) -> Path:
    torch.save(value, name, **how)
    return Path(name)


STREAM = {"_use_new_zipfile_serialization": False}


# 1. Code in a pickle: never executed; the globals named


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *words: Any) -> None:
        self.call = function, words

    def __reduce__(self) -> Any:
        return self.call


RUNS = "open('ran','w')"
PAYLOADS = {
    "system": (b"cos\nsystem\n" + text("touch ran") + b"\x85R", "os.system"),
    "eval": (b"cbuiltins\neval\n" + text(RUNS) + b"\x85R", "builtins.eval"),
    "python-2": (b"c__builtin__\neval\n" + text(RUNS) + b"\x85R", "builtins.eval"),
    "stack-global": (
        text("os") + text("system") + b"\x93" + text("touch ran") + b"\x85R",
        "os.system",
    ),
    "inst": (b"(" + text("touch ran") + b"ios\nsystem\n", "os.system"),
    "obj": (b"(cos\nsystem\n" + text("touch ran") + b"o", "os.system"),
    "new": (b"csubprocess\nPopen\n" + text("touch ran") + b"\x85\x81", "subprocess.Popen"),
    "new-ex": (b"csubprocess\nPopen\n" + text("touch ran") + b"\x85}\x92", "subprocess.Popen"),
    "getattr": (
        b"cbuiltins\ngetattr\ncos\nsystem\n"
        + text("__call__")
        + b"\x86R"
        + text("touch ran")
        + b"\x85R",
        "builtins.getattr",
    ),
    "setstate": (
        b"cfoo\nBar\n)\x81" + dict_of({"__setstate__": b"cos\nsystem\n"}) + b"b",
        "os.system",
    ),
    "torch-hub": (b"ctorch.hub\nload\n" + text("x/y") + text("z") + b"\x86R", "torch.hub.load"),
    "torch-load": (
        b"ctorch.serialization\nload\n" + text("ran") + b"\x85R",
        "torch.serialization.load",
    ),
    "extension": (b"\x82\x01)R", "copyreg.extension_1"),
}


@pytest.mark.parametrize("make", [zip_of, stream_of], ids=["zip", "stream"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_row01_code_in_a_pickle_never_runs_and_is_named(
    name: str, make: Callable[[bytes], bytes], run: Run, tmp_path: Path
) -> None:
    opcodes, called = PAYLOADS[name]
    model = dict_of({"a.weight": tensor(STORAGE if make is zip_of else STORAGE[:-2] + b"NtQ")})
    (tmp_path / "x.pt").write_bytes(make(dict_of({"model": model, "extra": opcodes})))
    assert called in inspected(run, "x.pt")["opaque"]
    assert called in run("inspect", "x.pt").stdout
    assert list(transferred(run, "x.pt", "out.safetensors")) == ["a.weight"]
    assert not (tmp_path / "ran").exists()


# 2. No way leads to pickle itself, nor to torch.load


def test_row02_nothing_falls_back_to_unpickling(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved({"model": WEIGHTS, "extra": Calls(eval, RUNS)}, "x.pt")
    saved({"extra": Calls(eval, RUNS)}, "y.pt")
    for module, name in [
        (torch, "load"),
        (torch.jit, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
    ]:
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("unpickled"))
    assert run("inspect", "x.pt").exit_code == 0
    assert run("inspect", "y.pt").exit_code == 0
    assert run("diff", "x.pt", GOOD).exit_code == 0
    assert run("transfer", "x.pt", f"like:{GOOD}", "-o", "o.safetensors").exit_code == 0
    assert_refused(run, "holds no state dict", "diff", "y.pt", GOOD)
    assert not (tmp_path / "ran").exists()


# 3. Other objects beside the tensors: placeholders, and the tensors can be read


class Config:
    """As a training script has one: unknown wherever the script is not."""

    def __init__(self) -> None:
        self.lr = 0.1


BESIDE = {
    "namespace": (argparse.Namespace(lr=0.1, device=torch.device("cpu")), "argparse.Namespace"),
    "numpy-scalar": (numpy.float64(0.5), "numpy._core.multiarray.scalar"),
    "numpy-array": (numpy.arange(3), "numpy._core.multiarray._reconstruct"),
    "config": (Config(), f"{Config.__module__}.Config"),
    "path": (Path("a"), "pathlib.PosixPath"),
    "fraction": (fractions.Fraction(1, 3), "fractions.Fraction"),
}


@pytest.mark.parametrize("how", [{}, STREAM], ids=["zip", "stream"])
@pytest.mark.parametrize("name", BESIDE)
def test_row03_what_torch_refuses_is_opened_and_listed(
    name: str, how: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, called = BESIDE[name]
    if Config.__module__ not in sys.modules:  # tests are imported by path; pickle looks it up
        monkeypatch.setitem(sys.modules, Config.__module__, SimpleNamespace(Config=Config))
    saved({"state_dict": WEIGHTS, "best": value, "epoch": 3}, "x.pt", **how)
    with pytest.raises(pickle.UnpicklingError):
        torch.load("x.pt", weights_only=True)
    found = inspected(run, "x.pt")
    assert called in found["opaque"]
    assert found["others"]["best"].endswith("(opaque)")
    assert found["others"]["epoch"] == "int 3"
    assert [entry["key"] for entry in found["state_dicts"]] == ["state_dict"]
    assert called in run("inspect", "x.pt").stdout
    assert_same_bits(transferred(run, "x.pt", "out.safetensors"), WEIGHTS)


# 4. Deflated members are inflated within bounds; short ones are refused


def test_row04_deflated_members_have_the_right_values(run: Run) -> None:
    state = {"a": torch.randn(500), "b": torch.zeros(5000), "c": torch.randn(500)[100:]}
    saved(state, "stored.pt")
    members = members_of(Path("stored.pt").read_bytes())
    Path("deflated.pt").write_bytes(archive_of(members, zipfile.ZIP_DEFLATED))
    assert_same_bits(transferred(run, "deflated.pt", "out.pt"), state)


def test_row04_a_deflated_pickle_of_any_model_is_read(run: Run) -> None:
    """Equal names and shapes without end are what deflates best."""
    state = {f"blocks.{at}.attn.q_proj.weight": torch.zeros(1) for at in range(8000)}
    saved(state, "stored.pt")
    members = members_of(Path("stored.pt").read_bytes())
    Path("deflated.pt").write_bytes(archive_of(members, zipfile.ZIP_DEFLATED))
    assert len(inspected(run, "deflated.pt")["state_dicts"][0]["tensors"]) == 8000


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_row04_a_member_shorter_than_its_storage_is_refused(method: int, run: Run) -> None:
    model = dict_of({"a": tensor()})
    Path("x.pt").write_bytes(zip_of(model, {"0": bytes(8)}, method))
    assert_unusable(run, "storage 0 is too short: expected 12 bytes, have 8", "x.pt")


def patched(data: bytes, marker: bytes, offset: int, new: bytes) -> bytes:
    """``new`` in place of what lies ``offset`` bytes after the last ``marker``."""
    at = data.rindex(marker) + offset
    return data[:at] + new + data[at + len(new) :]


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


@pytest.mark.parametrize("size", [300, 1500], ids=["fewer-than-it-has", "more-than-it-has"])
def test_row04_a_deflated_member_whose_size_lies_is_refused(size: int, run: Run) -> None:
    view = b"K\x00K\x4b\x85K\x01\x85tR" if size == 300 else b"K\x00M\x77\x01\x85K\x01\x85tR"
    storage = STORAGE.replace(b"K\x03tQ", b"K\x4btQ" if size == 300 else b"M\x77\x01tQ")
    data = zip_of(
        dict_of({"a": tensor(storage, view)}), {"0": bytes(range(100)) * 10}, zipfile.ZIP_DEFLATED
    )
    at = data.index(CENTRAL, data.index(CENTRAL) + 4)
    Path("x.pt").write_bytes(data[: at + 24] + struct.pack("<I", size) + data[at + 28 :])
    Path("y.pt").write_bytes(Path("x.pt").read_bytes())
    cause = "more than its" if size == 300 else "found 1,000 of its"
    assert_refused(run, cause, "diff", "x.pt", "y.pt")
    assert_refused(run, cause, "transfer", "x.pt", "like:x.pt", "-o", "out.safetensors")


# 5. A flipped bit is found on request


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_row05_a_flipped_bit_is_found_on_request(method: int, run: Run) -> None:
    saved({"a": torch.zeros(64), "b": torch.ones(3)}, "x.pt")
    data = archive_of(members_of(Path("x.pt").read_bytes()), method)
    Path("x.pt").write_bytes(data)
    assert run("inspect", "x.pt", "--verify").exit_code == 0
    crc = data.index(CENTRAL, data.index(CENTRAL) + 4) + 16
    names = [name for name in members_of(data) if name.startswith("x/data/")]
    for _ in range(list(members_of(data)).index(names[0]) - 1):
        crc = data.index(CENTRAL, crc) + 16
    Path("x.pt").write_bytes(data[:crc] + bytes([data[crc] ^ 1]) + data[crc + 1 :])
    with pytest.raises(DamageRefused, match=r"1 tensor \(a\) have changed since"):
        surgery.open_checkpoint("x.pt").verify().refuse_damage()
    result = run("inspect", "x.pt", "--verify")
    assert result.exit_code == 1
    assert "a" in result.stdout


def test_row05_a_bit_flipped_inside_deflate_is_no_crash(run: Run) -> None:
    state = {"a": torch.arange(400.0)}
    saved(state, "x.pt")
    data = archive_of(members_of(Path("x.pt").read_bytes()), zipfile.ZIP_DEFLATED)
    start = data.index(b"x/data/0") + 8
    Path("x.pt").write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
    Path("y.pt").write_bytes(Path("x.pt").read_bytes())
    assert_refused(run, "x.pt: ", "diff", "x.pt", "y.pt")


# 6. The output is the source: safe in place, or refused


@both_formats
@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "another-spelling"])
def test_row06_the_output_may_be_the_source(suffix: str, link: str, run: Run) -> None:
    source, out = Path(f"x.{suffix}"), Path(f"out.{suffix}")
    surgery.save(WEIGHTS, source)
    if link == "symlink":
        out.symlink_to(source)
    elif link == "hardlink":
        out.hardlink_to(source)
    else:
        out = source if link == "same" else Path("..", Path.cwd().name, source)
    words = ["transfer", source, f"like:{source}", "-o", out]
    assert_refused(run, "exists already", *words)
    before = source.read_bytes()
    result = run(*words, "--force")
    if result.exit_code:
        assert len(result.stderr.splitlines()) == 1
        assert source.read_bytes() == before
    for path in (source, out):
        assert_same_bits(dict(surgery.open_checkpoint(path).state_dict()), WEIGHTS)
    assert not list(Path().glob(".*"))


# 7. A full disk: the old file, and no litter. Kills at many points are in the writer's own tests

FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from surgery_cli.main import surgery
surgery(["transfer", "big.pt", "like:big.pt", "-o", "out.safetensors", "--force"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limit here")
def test_row07_a_full_disk_leaves_the_old_file_and_no_litter(run: Run, tmp_path: Path) -> None:
    surgery.save({"a": torch.zeros(100_000)}, "big.pt")
    Path("out.safetensors").write_bytes(b"old")
    before = snapshot(tmp_path)
    ran = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "out.safetensors: cannot be written" in ran.stderr.splitlines()[0]
    assert snapshot(tmp_path) == before


# 8. A source that was cut


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.pth"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_row08_a_cut_source_says_how_much_is_there(name: str, share: float, run: Run) -> None:
    state = {f"layer.{at}.weight": torch.ones(50) for at in range(20)}
    if name == "x.safetensors":
        surgery.save(state, name)
    else:
        saved(state, name, **(STREAM if name == "x.pth" else {}))
    data = Path(name).read_bytes()
    cut = data[: int(len(data) * share)]
    Path(name).write_bytes(cut)
    assert_unusable(run, f"{name}: ", name)
    said = run("inspect", name).stderr
    assert f"{len(cut):,} bytes" in said or "have " in said


def test_row08_a_cut_shard_is_named(run: Run) -> None:
    index_of({"a.weight": "one.safetensors", "a.bias": "one.safetensors"})
    surgery.save(WEIGHTS, "one.safetensors")
    data = Path("one.safetensors").read_bytes()
    Path("one.safetensors").write_bytes(data[:-4])
    assert_unusable(run, "one.safetensors: safetensors header: cut short: expected 32 bytes", INDEX)


# 9. A sharded index that lies

INDEX = "m.safetensors.index.json"


def index_of(weight_map: Any) -> None:
    Path(INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize(
    "file",
    [
        "../one.safetensors",
        "/one.safetensors",
        "C:/one.safetensors",
        "C:one.safetensors",
        "sub\\one.safetensors",
        "\\\\host\\share\\one.safetensors",
        "a/../../one.safetensors",
        "",
        "a\x00",
    ],
)
def test_row09_a_path_out_of_the_folder_is_refused(file: str, run: Run) -> None:
    surgery.save(WEIGHTS, Path("..", "one.safetensors"))
    index_of({"a.weight": file, "a.bias": file})
    assert_unusable(run, "is not a path below the index's folder", INDEX)


@pytest.mark.parametrize(
    ("weight_map", "cause"),
    [
        pytest.param({"a.weight": "one.safetensors"}, "disagree", id="extra-key"),
        pytest.param(
            {"a.weight": "one.safetensors", "a.bias": "one.safetensors", "c": "one.safetensors"},
            "disagree",
            id="missing-key",
        ),
        pytest.param(
            {"a.weight": "one.safetensors", "a.bias": "two.safetensors"},
            "disagree",
            id="two-shards",
        ),
        pytest.param({"a.weight": "oen.safetensors"}, "oen.safetensors is missing", id="no-shard"),
        pytest.param({"a.weight": "x" * 300}, "is missing", id="name-too-long"),
        pytest.param({"a.weight": "x/" * 3000 + "x"}, "is missing", id="path-too-long"),
        pytest.param({"a.weight": "\ud800"}, r"\ud800 is missing", id="no-character"),
        pytest.param({"a.weight": "."}, "is missing", id="folder"),
        pytest.param({"a.weight": INDEX}, "an index, where a shard is expected", id="itself"),
        pytest.param({"a.weight": 3}, "are not file names", id="number"),
        pytest.param([], "without a weight_map", id="list"),
    ],
)
def test_row09_an_index_at_odds_with_its_shards(weight_map: Any, cause: str, run: Run) -> None:
    surgery.save(WEIGHTS, "one.safetensors")
    surgery.save({"a.bias": torch.ones(2)}, "two.safetensors")
    index_of(weight_map)
    assert_unusable(run, cause, INDEX)


def test_row09_thousands_of_missing_shards_are_a_short_error(run: Run, tmp_path: Path) -> None:
    """Each was once compared with every file of the folder."""
    for at in range(300):
        (tmp_path / f"model-{at:05}.safetensors").touch()
    index_of({f"layer.{at}": f"model-{at:05}-of-99999.safetensors" for at in range(20_000)})
    assert (
        len(assert_refused(run, "model-00000-of-99999.safetensors is missing", "inspect", INDEX))
        < 20
    )


# 10. The source changes while it is read


CHANGES = {
    "longer": "old.write_bytes(old.read_bytes() + b'x')",
    "shorter": "os.truncate(old, 900)",
    "replaced": "shutil.copy(old, 'new'); os.replace('new', old)",
    "rewritten": "old.write_bytes(old.read_bytes())",
    "removed": "old.unlink()",
}


@pytest.mark.parametrize("how", CHANGES)
def test_row10_a_source_that_changes_meanwhile_is_noticed(how: str, run: Run) -> None:
    """An architecture of one's own is built between opening the source and copying from it."""
    saved(torch.nn.Linear(40, 40).state_dict(), "old.pt")
    os.utime("old.pt", (1, 1))
    Path("net.py").write_text(
        "import os, pathlib, shutil, torch\n"
        "old = pathlib.Path('old.pt')\n"
        f"def make():\n    {CHANGES[how]}\n    return torch.nn.Linear(40, 40)\n"
    )
    result = run("transfer", "old.pt", "net.py:make", "-o", "out.safetensors")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: old.pt: ")
    assert "changed since it was opened" in line or how == "removed"
    assert {path.name for path in Path().iterdir()} - {"__pycache__", "old.pt"} == {GOOD, "net.py"}


# 11. Views of every kind: right values, or a refusal


def views() -> dict[str, torch.Tensor]:
    base, pairs = torch.arange(60.0).reshape(5, 12), torch.arange(20.0).reshape(5, 2, 2)
    return {
        "whole": base,
        "tied": base,
        "part": base[1:3],
        "overlapping": base[2:],
        "disjoint.a": base[0],
        "disjoint.b": base[4],
        "transposed": base.t(),
        "columns": base[:, ::3],
        "rows": base[::2],
        "permuted": base.reshape(5, 3, 4).permute(2, 0, 1),
        "stride-0": base[:1].expand(9, 12),
        "one-number": base[1, 1].expand(50),
        "windows": base.as_strided((6, 5), (2, 1), 3),
        "empty": base[:0],
        "scalar": base[3, 3],
        "conjugate": torch.view_as_complex(pairs).conj(),
        "negative": torch.view_as_complex(pairs.clone()).conj().imag,
    }


@both_formats
@pytest.mark.parametrize("how", [{}, STREAM], ids=["zip", "stream"])
def test_row11_views_have_the_values_that_torch_gives(
    how: dict[str, Any], suffix: str, run: Run
) -> None:
    saved(views(), "x.pt", **how)
    wanted = dict(torch.load("x.pt", weights_only=True))
    wanted = {name: value.resolve_conj().resolve_neg() for name, value in wanted.items()}
    written = transferred(run, "x.pt", f"out.{suffix}")
    reopened = dict(surgery.open_checkpoint(f"out.{suffix}").state_dict())
    assert_same_bits(reopened, wanted)
    assert written.keys() | {"tied"} == wanted.keys()
    assert run("diff", "x.pt", f"out.{suffix}").exit_code == 0


@pytest.mark.parametrize(
    ("view", "cause"),
    [
        pytest.param(
            b"K\x00K\x04\x85K\x01\x85tR", "reaches element 4 of a storage of 3", id="size"
        ),
        pytest.param(b"K\x01K\x03\x85K\x01\x85tR", "reaches element 4 of", id="offset"),
        pytest.param(b"K\x00K\x03\x85K\x02\x85tR", "reaches element 5 of", id="stride"),
        pytest.param(b"J\xff\xff\xff\xffK\x03\x85K\x01\x85tR", "negative", id="negative-offset"),
        pytest.param(b"K\x00K\x03\x85J\xff\xff\xff\xff\x85tR", "negative", id="negative-stride"),
        pytest.param(b"K\x00J\xff\xff\xff\xff\x85K\x01\x85tR", "negative", id="negative-size"),
        pytest.param(b"K\x00K\x03K\x01\x86K\x01\x85tR", "2 sizes and 1 strides", id="ranks"),
        pytest.param(
            b"K\x00" + number(1 << 62) + b"K\x04\x86K\x00K\x00\x86tR",
            "larger than any",
            id="overflow",
        ),
        pytest.param(
            b"K\x00K\x03\x85" + number((1 << 64) - 1) + b"\x85tR",
            "larger than any",
            id="wide-stride",
        ),
    ],
)
@pytest.mark.parametrize("make", [zip_of, stream_of], ids=["zip", "stream"])
def test_row11_a_view_that_leaves_its_storage_is_refused(
    view: bytes, cause: str, make: Callable[[bytes], bytes], run: Run
) -> None:
    storage = STORAGE if make is zip_of else STORAGE[:-2] + b"NtQ"
    Path("x.pt").write_bytes(make(dict_of({"a.weight": tensor(storage, view)})))
    assert_unusable(run, f"tensor a.weight {'has ' if cause[0] in 'n2' else ''}", "x.pt")
    assert cause in run("inspect", "x.pt").stderr


@pytest.mark.parametrize("bit", [b"\x89", b"N", b"K\x00"], ids=["false", "none", "zero"])
def test_row11_a_conjugate_bit_that_is_no_bit_is_not_read(bit: bytes, run: Run) -> None:
    """Torch conjugates wherever the key is there; whoever wrote it may have meant the value."""
    storage = STORAGE.replace(b"FloatStorage", b"ComplexFloatStorage")
    view = (
        VIEW.removesuffix(b"tR")
        + b"\x89ccollections\nOrderedDict\n)R}"
        + text("conj")
        + bit
        + b"stR"
    )
    opcodes = tensor(storage, view).replace(b"_rebuild_tensor\n", b"_rebuild_tensor_v2\n")
    model = dict_of({"a": tensor(STORAGE.replace(b"U\x010", b"U\x011")), "c": opcodes})
    Path("x.pt").write_bytes(zip_of(model, {"0": bytes(24), "1": bytes(12)}))
    assert torch.load("x.pt", weights_only=True)["c"].is_conj()
    (state,) = inspected(run, "x.pt")["state_dicts"]
    assert state["unlisted"] == [["c", "a tensor whose conjugate bit is no bit"]]


@pytest.mark.parametrize("dtype", ["bool", "uint16", "uint64", "float8_e5m2", "float4_e2m1fn_x2"])
def test_row11_a_negative_bit_of_what_torch_cannot_negate_is_not_read(dtype: str, run: Run) -> None:
    """The file would open, and the values end in an error of torch's own."""
    storage = STORAGE.replace(b"ctorch\nFloatStorage", b"ctorch.storage\nUntypedStorage")
    view = (
        VIEW.removesuffix(b"tR")
        + b"\x89ccollections\nOrderedDict\n)R"
        + f"ctorch\n{dtype}\n".encode()
        + b"}"
        + text("neg")
        + b"\x88stR"
    )
    opcodes = tensor(storage.replace(b"K\x03", b"K\x18"), view)
    opcodes = opcodes.replace(b"_rebuild_tensor\n", b"_rebuild_tensor_v3\n")
    model = dict_of({"a": tensor(STORAGE.replace(b"U\x010", b"U\x011")), "n": opcodes})
    Path("x.pt").write_bytes(zip_of(model, {"0": bytes(24), "1": bytes(12)}))
    (state,) = inspected(run, "x.pt")["state_dicts"]
    assert state["unlisted"] == [["n", f"a negated tensor of {dtype}, which torch cannot negate"]]
    assert list(surgery.open_checkpoint("x.pt").state_dict()) == ["a"]


@pytest.mark.parametrize("size", [10**9, 10**12, 1 << 62])
def test_row11_one_number_is_never_expanded_to_a_billion(size: int, run: Run) -> None:
    view = b"K\x00" + number(size) + b"\x85K\x00\x85tR"
    Path("x.pt").write_bytes(zip_of(dict_of({"a": tensor(view=view), "b": tensor()})))
    (state,) = inspected(run, "x.pt")["state_dicts"]
    assert state["unlisted"] == [["a", "a view that repeats 1 value"]]
    assert run("diff", "x.pt", "x.pt").exit_code == 1  # nobody can say that they agree
    words = ("transfer", "x.pt", "like:x.pt", "-o", "out.safetensors")
    assert_refused(run, "strict: 1 tensors differ", *words, "--strict")
    assert run(*words).exit_code == 0
    assert list(safetensors.torch.load_file("out.safetensors")) == ["b"]


# 12. Every dtype bit for bit, or refused by name


@pytest.mark.parametrize("out", ["pt", "safetensors"])
@pytest.mark.parametrize("how", [{}, STREAM], ids=["zip", "stream"])
@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_row12_every_dtype_bit_for_bit(dtype: str, how: dict[str, Any], out: str, run: Run) -> None:
    """All 65,536 pairs of bytes, signalling NaN among them."""
    pairs = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.uint8)
    data = pairs % 2 if dtype == "bool" else pairs
    state = {"a.b": data.view(getattr(torch, dtype)).reshape(2, -1)}
    saved(state, "x.pt", **how)
    assert inspected(run, "x.pt")["state_dicts"][0]["tensors"][0]["dtype"] == dtype
    if out == "safetensors" and dtype in ("complex32", "complex128"):
        words = ("transfer", "x.pt", "like:x.pt", "-o", "out.safetensors")
        assert_refused(run, f"safetensors has no dtype {dtype}", *words)
    else:
        assert_same_bits(transferred(run, "x.pt", f"out.{out}"), state)
        assert run("diff", "x.pt", f"out.{out}").exit_code == 0


@pytest.mark.parametrize("source", ["x.pt", "x.safetensors"])
def test_row12_boolean_bytes_other_than_0_and_1_are_kept(source: str, run: Run) -> None:
    data = bytes([0, 1, 2, 255])
    if source == "x.pt":
        storage = STORAGE.replace(b"FloatStorage", b"BoolStorage").replace(b"K\x03tQ", b"K\x04tQ")
        view = VIEW.replace(b"K\x03", b"K\x04")
        Path(source).write_bytes(zip_of(dict_of({"a": tensor(storage, view)}), {"0": data}))
    else:
        entry = {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}
        Path(source).write_bytes(safetensors_of({"a": entry}, data))
    assert surgery.open_checkpoint(source).tensor("a").view(torch.uint8).tolist() == list(data)
    written = transferred(run, source, "out.safetensors")["a"]
    assert written.view(torch.uint8).tolist() in (list(data), [0, 1, 1, 1])


def test_row12_tensors_of_other_kinds_are_refused_by_name(run: Run) -> None:
    quantised = b"ctorch._utils\n_rebuild_qtensor\n(tR"
    kinds = {"nested": b"ctorch._utils\n_rebuild_nested_tensor\n(tR", "quantised": quantised}
    Path("x.pt").write_bytes(zip_of(dict_of({"a": tensor(), "b": tensor(), **kinds})))
    saved({"a": torch.ones(2), "b": torch.ones(2), "sparse": torch.eye(2).to_sparse()}, "y.pt")
    listed = dict(inspected(run, "x.pt")["state_dicts"][0]["unlisted"])
    assert listed == {"nested": "a nested tensor", "quantised": "a qtensor"}
    assert dict(inspected(run, "y.pt")["state_dicts"][0]["unlisted"]) == {
        "sparse": "a sparse tensor"
    }
    with pytest.raises(CheckpointError, match="sparse is a sparse tensor"):
        surgery.open_checkpoint("y.pt").tensor("sparse")
    six = {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}
    Path("z.safetensors").write_bytes(safetensors_of({"six": six}, bytes(3)))
    unlisted = inspected(run, "z.safetensors")["state_dicts"][0]["unlisted"]
    assert unlisted == [["six", "of a dtype that torch has not (F6_E2M3)"]]


# 13. What a cast breaks is counted and said, and an error under --strict


def test_row13_values_that_a_cast_breaks(run: Run) -> None:
    saved({"a": torch.tensor([1.0, 1e6, -1e6]), "b": torch.tensor([2.5])}, "x.pt")
    saved({"a": torch.zeros(3).half(), "b": torch.zeros(1)}, "half.pt")
    words = ("transfer", "x.pt", "like:half.pt", "-o", "out.safetensors")
    assert_refused(run, "casts break 2 values in 1 tensors", *words, "--strict")
    result = run(*words)
    assert result.exit_code == 0
    assert "2 values of a" in result.output
    written = safetensors.torch.load_file("out.safetensors")
    assert written["a"].tolist() == [1.0, float("inf"), float("-inf")]
    assert written["b"].tolist() == [2.5]


# 14. Old and foreign files: read, or named for what they are


def test_row14_big_endian_files(run: Run) -> None:
    swapped = struct.pack(">3f", 1, -2, 3.5)
    data = zip_of(dict_of({"a": tensor()}), {"0": swapped}, more={"byteorder": b"big"})
    Path("x.pt").write_bytes(data)
    assert transferred(run, "x.pt", "out.safetensors")["a"].tolist() == [1, -2, 3.5]


def test_row14_the_stream_format_and_python_2(run: Run, fixtures: Path) -> None:
    expected = dict(surgery.open_checkpoint(fixtures / "zip.pt").state_dict())
    shutil.copy(fixtures / "stream.pth", "stream.pth")
    shutil.copy(fixtures / "python2.pkl", "python2.pkl")
    assert_same_bits(transferred(run, "stream.pth", "a.safetensors"), expected)
    names = transferred(run, "python2.pkl", "b.safetensors")
    assert all(name.endswith("_é") for name in names)
    assert all(torch.equal(expected[name[:-2]], value) for name, value in names.items())


@pytest.mark.parametrize("how", [{}, STREAM], ids=["zip", "stream"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_row14_a_whole_pickled_module(how: dict[str, Any], run: Run) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    saved(model, "x.pt", **how)
    assert "torch.nn.modules.linear.Linear" in inspected(run, "x.pt")["opaque"]
    assert_same_bits(transferred(run, "x.pt", "out.safetensors"), model.state_dict())


def test_row14_torchscript_and_tar_are_named(run: Run) -> None:
    script = archive_of({"m/data.pkl": b"N.", "m/constants.pkl": b").", "m/code/x.py": b""})
    Path("script.pt").write_bytes(script)
    assert_unusable(run, "a TorchScript archive", "script.pt")
    with tarfile.open("old.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert_unusable(run, "a tar archive (torch wrote these before version 0.2)", "old.pt")


# 15. Several state dicts: listed, and the user chooses


def test_row15_several_state_dicts_are_never_chosen_from(run: Run) -> None:
    ema = {name: value + 1 for name, value in WEIGHTS.items()}
    saved({"model": WEIGHTS, "model_ema": ema, "epoch": 7}, "x.pt")
    words = ("transfer", "x.pt", f"like:{GOOD}", "-o", "out.safetensors")
    details = assert_refused(run, "holds 2 state dicts; choose one with key= or --key", *words)
    assert details == ["  model: 2 tensors", "  model_ema: 2 tensors"]
    assert_refused(run, "holds 2 state dicts", "diff", "x.pt", GOOD)
    assert [entry["key"] for entry in inspected(run, "x.pt")["state_dicts"]] == [
        "model",
        "model_ema",
    ]
    assert run(*words, "--key", "model_ema").exit_code == 0
    assert_same_bits(safetensors.torch.load_file("out.safetensors"), ema)


# 16. What is no checkpoint at all


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"<!DOCTYPE html>\n<html>404</html>", "an HTML page", id="html"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid", "a git-LFS pointer", id="lfs"
        ),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image", id="png"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(64), "a JPEG image", id="jpeg"),
        pytest.param(b"\x1f\x8b\x08" + bytes(64), "a gzip file", id="gzip"),
        pytest.param(b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file", id="gguf"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file", id="hdf5"),
        pytest.param(b"\x93NUMPY\x01\x00" + bytes(64), "a numpy array", id="npy"),
        pytest.param(
            archive_of({"w.npy": b""}),
            "a zip archive of w.npy, not written by torch.save",
            id="npz",
        ),
        pytest.param(
            archive_of({"word/document.xml": b""}), "not written by torch.save", id="docx"
        ),
        pytest.param(
            pickle.dumps([1, 2]), "a plain pickle, not written by torch.save", id="pickle"
        ),
        pytest.param(b'{"error": "gone"}', "JSON text without a weight_map", id="json"),
        pytest.param(b"Entry not found", "it begins with 'Entry not found'", id="text"),
        pytest.param(bytes(64), "it begins with", id="zeros"),
    ],
)
def test_row16_the_real_thing_is_named(data: bytes, cause: str, run: Run) -> None:
    Path("x.pt").write_bytes(data)
    assert_unusable(run, cause, "x.pt")


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        pytest.param("folder", "a folder without a checkpoint", id="folder"),
        pytest.param("fifo", "a named pipe, not a file", id="fifo"),
        pytest.param("device", "a character device, not a file", id="device"),
        pytest.param("dangling", "a link to a file that does not exist", id="dangling"),
        pytest.param("loop", "a link to a file that does not exist", id="loop"),
        pytest.param("missing", "no such file", id="missing"),
        pytest.param("too-long", "cannot be read: File name too long", id="too-long"),
    ],
)
def test_row16_what_is_no_file_is_named_and_nobody_waits(kind: str, cause: str, run: Run) -> None:
    name = {"device": "/dev/null", "too-long": "x" * 300}.get(kind, "x.pt")
    path = Path(name)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to("x.pt")
    for words in (["inspect", name], ["diff", GOOD, name]):
        result = run(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert cause in result.stderr.splitlines()[0]


# 17. The safetensors header

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        pytest.param(b"\x01\x00\x00", "expected 8 bytes of length, have 3", id="short"),
        pytest.param(
            (1 << 30).to_bytes(8, "little") + b"{}", "over the limit", id="over-the-limit"
        ),
        pytest.param(
            (99).to_bytes(8, "little") + b"{}", "expected 107 bytes, have 10", id="past-end"
        ),
        pytest.param(b"\xff" * 8 + b"{}", "over the limit", id="length-of-all-ones"),
        pytest.param(safetensors_of(b'{"\xff":{}}'), "not UTF-8 at byte 2", id="not-utf-8"),
        pytest.param(safetensors_of(b"{'a': 1}"), "not JSON", id="not-json"),
        pytest.param(safetensors_of(b"{"), "not JSON", id="cut-json"),
        pytest.param(safetensors_of(b"[]"), "expected a JSON object", id="array"),
        pytest.param(safetensors_of(b""), "expected a JSON object", id="no-header"),
        pytest.param(
            safetensors_of({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
            "tensor b overlaps",
            id="overlap",
        ),
        pytest.param(
            safetensors_of({"a": ENTRY, "b": ENTRY}, bytes(8)), "overlaps", id="same-bytes"
        ),
        pytest.param(
            safetensors_of({"a": {**ENTRY, "data_offsets": [1, 9]}}, bytes(9)),
            "1 unused",
            id="hole",
        ),
        pytest.param(
            safetensors_of({"a": ENTRY}, bytes(9)), "1 bytes after the last", id="trailing"
        ),
        pytest.param(
            safetensors_of({"a": ENTRY}, bytes(7)), "expected 8 bytes of values", id="cut"
        ),
        pytest.param(
            safetensors_of({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
            "expected 12 bytes",
            id="mismatch",
        ),
        pytest.param(
            safetensors_of({"a": {**ENTRY, "shape": [1 << 62, 1 << 62]}}),
            "any memory",
            id="overflow",
        ),
        pytest.param(
            safetensors_of(
                {"a": {**ENTRY, "shape": [1 << 32, 1 << 32, 0], "data_offsets": [0, 0]}}
            ),
            "any memory",
            id="overflow-times-0",
        ),
        pytest.param(safetensors_of({"a": {**ENTRY, "shape": [-2]}}), "from 0 up", id="negative"),
        pytest.param(
            safetensors_of({"a": {**ENTRY, "data_offsets": [0, -8]}}),
            "a begin and an end",
            id="back",
        ),
        pytest.param(
            safetensors_of({"a": {**ENTRY, "shape": [2.0]}}), "not a whole number", id="float"
        ),
        pytest.param(
            safetensors_of({"a": {**ENTRY, "shape": ["2"]}}), "from 0 up", id="text-shape"
        ),
        pytest.param(safetensors_of({"a": {**ENTRY, "shape": [True] * 2}}), "from 0 up", id="bool"),
        pytest.param(
            safetensors_of(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"),
            "not JSON",
            id="digits",
        ),
        pytest.param(
            safetensors_of(b'{"a":%s,"a":%s}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(8)),
            "the key a occurs twice",
            id="duplicate",
        ),
        pytest.param(
            safetensors_of({"__metadata__": ENTRY}, bytes(8)),
            "no tensor may be called so",
            id="metadata",
        ),
        pytest.param(
            safetensors_of(b'{"\\ud800":{}}'), "surrogates not allowed", id="lone-surrogate"
        ),
        pytest.param(safetensors_of(b'{"a":' + b"[" * 100_000), "nested too deep", id="brackets"),
        pytest.param(
            safetensors_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
            "nested too deep",
            id="braces",
        ),
        pytest.param(
            safetensors_of(
                b'{"a":{"dtype":' + b"[" * 400 + b"]" * 400 + b',"shape":[],"data_offsets":[0,0]}}'
            ),
            "unknown dtype",
            id="dtype-of-brackets",
        ),
        pytest.param(
            safetensors_of({"__metadata__": {"surgery.versions": "[" * 100_000}}),
            "is not JSON",
            id="ours",
        ),
    ],
)
def test_row17_a_header_that_is_wrong_is_refused_precisely(
    data: bytes, cause: str, run: Run
) -> None:
    if not any(key in data for key in (b"surgery.versions", b"'a'", b'"a":{"dtype": "F32", ')):
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(data)
    Path("x.safetensors").write_bytes(data)
    for words in (["inspect", "x.safetensors"], ["diff", GOOD, "x.safetensors"]):
        assert_refused(run, "x.safetensors: safetensors header: ", *words)
        assert_refused(run, cause, *words)


def test_row17_metadata_of_null_is_none_as_the_library_has_it(run: Run) -> None:
    data = safetensors_of({"__metadata__": None, "a": ENTRY}, bytes(8))
    assert [name for name, _ in safetensors.deserialize(data)] == ["a"]
    Path("x.safetensors").write_bytes(data)
    assert inspected(run, "x.safetensors")["state_dicts"][0]["metadata"] == {}


# 18. Bombs: bounded in memory and time


def repeated(opcodes: bytes, times: int, before: bytes = b"") -> bytes:
    return before + b"(" + opcodes * times + b"t"


def self_holding_module(name: str) -> bytes:
    attributes = dict_of(
        {"_parameters": dict_of({"w": tensor()}), "_modules": b"}" + text(name) + b"h\x00s"}
    )
    return b"cfoo\nBar\n)\x81q\x00" + attributes + b"b"


def doubling_modules(levels: int) -> bytes:
    """Each module is both children of the next: 2 ** levels names."""
    out = (
        b"cfoo\nBar\n)\x81q\x00"
        + dict_of({"_parameters": dict_of({"w": tensor()}), "_modules": b"}"})
        + b"b"
    )
    for level in range(levels):
        child = b"h" + bytes([level])
        out += b"0cfoo\nBar\n)\x81q" + bytes([level + 1])
        out += dict_of({"_parameters": b"}", "_modules": dict_of({"a": child, "b": child})}) + b"b"
    return out


def modules_around_one(count: int) -> bytes:
    """Many small modules, and each of them holds the same large one."""
    many = dict_of(
        {f"{at:05}": tensor() + b"q\xf0" if at == 0 else b"h\xf0" for at in range(count)}
    )
    large = b"cfoo\nBar\n)\x81q\xf1" + dict_of({"_parameters": many, "_modules": b"}"}) + b"b"
    small = (
        b"cfoo\nBar\n)\x81"
        + dict_of({"_parameters": b"}", "_modules": dict_of({"m": b"h\xf1"})})
        + b"b"
    )
    return dict_of({"large": large, **{f"small{at}": small for at in range(count)}})


def one_shape_again_and_again(times: int) -> bytes:
    shape = b"(" + b"K\x01" * 64 + b"t"
    inner = b"(ctorch._utils\n_rebuild_tensor\nN(" + STORAGE + b"K\x00" + shape + b"2t}t"
    return repeated(
        b"h\x07h\x06R", times, inner + b"q\x06" + b"0ctorch._tensor\n_rebuild_from_type_v2\nq\x070"
    )


def zip_with_pickle(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return archive_of({"a/data.pkl": data, "a/version": b"3\n"}, method)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "deflated-pickle": lambda n: zip_with_pickle(b"(" + b"]" * 100 * n + b"t."),
    "deflated-nothing": lambda n: zip_with_pickle(b"N" * 100 * n + b"."),
    "deflated-text": lambda n: zip_with_pickle(
        b"X" + struct.pack("<I", 100 * n) + b"a" * 100 * n + b"."
    ),
    "memo-of-lists": lambda n: zip_of(b"]q\x00(" + b"h\x00" * n + b"e"),
    "memo-index": lambda n: zip_of(b"Nr" + struct.pack("<I", 0xFFFFFFFF)),
    "empty-lists": lambda n: zip_of(repeated(b"]", n)),
    "empty-dicts": lambda n: zip_of(repeated(b"}", n)),
    "empty-sets": lambda n: zip_of(repeated(b"\x8f", n)),
    "marks": lambda n: zip_of(b"(" * n + b"1" * n + b"N"),
    "duplicates": lambda n: zip_of(b"N" + b"2" * n + b"0" * n),
    "doubled-tuples": lambda n: zip_of(b")" + b"2\x86" * (n // 2)),
    "doubled-lists": lambda n: zip_of(b"]" + b"q\x00(h\x00h\x00l" * (n // 6)),
    "objects": lambda n: zip_of(repeated(b"2)\x81", n // 3, b"cx\ny\n")),
    "ordered-dicts": lambda n: zip_of(
        repeated(b"h\x00)R", n // 4, b"ccollections\nOrderedDict\nq\x000")
    ),
    "list-copies": lambda n: zip_of(
        repeated(
            b"h\x01h\x00R", n // 5, b"(" + b"N" * 20_000 + b"t\x85q\x000cbuiltins\nlist\nq\x010"
        )
    ),
    "dict-copies": lambda n: zip_of(
        repeated(
            b"h\x01h\x00R",
            n // 5,
            dict_of({f"{i}": b"N" for i in range(2000)}) + b"\x85q\x000cbuiltins\ndict\nq\x010",
        )
    ),
    "one-shape": lambda n: zip_of(one_shape_again_and_again(n // 5)),
    "deep-lists": lambda n: zip_of(deep(n)),
    "deep-tuples": lambda n: zip_of(b")" + b"\x85" * n),
    "deep-keys": lambda n: zip_of(b"})" + b"\x85" * n + b"Ns"),
    "deep-storage-type": lambda n: zip_of(b"(U\x07storage" + deep(n) + b"U\x010U\x03cpuK\x03tQ"),
    "deep-arguments": lambda n: zip_of(dict_of({"a": b"cfoo\nBar\n" + deep(n) + b"\x85R"})),
    "deep-stream-keys": lambda n: stream_of(b"}", keys=b"](" + deep(n) + b"e"),
    "wide-number": lambda n: zip_of(b"\x8b" + struct.pack("<i", n) + b"\x01" * n),
    "wide-number-as-key": lambda n: zip_of(b"}(" + WIDE + b"Nu"),
    "wide-storage-key": lambda n: zip_of(dict_of({"a": tensor(STORAGE.replace(b"U\x010", WIDE))})),
    "wide-stream-key": lambda n: stream_of(b"}", keys=b"](" + WIDE + b"e"),
    "wide-count": lambda n: zip_of(
        dict_of({"a": tensor(STORAGE.replace(b"K\x03tQ", WIDE + b"tQ"))})
    ),
    "wide-shape": lambda n: zip_of(
        dict_of(
            {"m": dict_of({"a": tensor()}), "x": tensor(view=b"K\x00" + WIDE + b"\x85K\x01\x85tR")}
        )
    ),
    "digits": lambda n: zip_of(b"L" + b"9" * min(n, 60_000) + b"L\n"),
    "module-in-itself": lambda n: zip_of(self_holding_module("m")),
    "module-of-long-names": lambda n: zip_of(self_holding_module("m" * n)),
    "modules-doubling": lambda n: zip_of(doubling_modules(40)),
    "modules-around-one": lambda n: zip_of(modules_around_one(n // 80)),
    "dots-in-a-name": lambda n: safetensors_of(
        {
            "." * n: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
            "__metadata__": {"x.w": "." * n},
        }
    ),
    "numbers-in-a-name": lambda n: zip_of(dict_of({"1." * (n // 4) + "w": tensor()})),
    "one-long-name": lambda n: safetensors_of(
        {
            name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
            for name in ("a" * (n // 2), *(f"{at:x}.{at:x}" for at in range(n // 60)))
        }
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_row18_memory_stays_in_proportion(name: str, run: Run) -> None:
    """No file takes more than some hundred times its size, beside a constant."""
    data = BOMBS[name](60_000)
    Path("x.pt").write_bytes(data)
    run("inspect", GOOD)  # what is imported once is not the file's
    tracemalloc.start()
    result = run("inspect", "x.pt")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.exit_code in (0, 2), result.stderr
    assert "this is a bug" not in result.stderr
    assert peak < 64_000_000 + 120 * len(data)


BOUNDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
from click.testing import CliRunner
from surgery_cli.main import surgery
for name in sys.argv[1:]:
    ran = CliRunner().invoke(surgery, ["inspect", name])
    print(name, ran.exit_code, ran.stderr.splitlines()[:1], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_row18_large_bombs_within_a_limit_of_memory(run: Run) -> None:
    """Small files, half of them bombs of gigabytes; the timeout is a hang guard."""
    for name, make in BOMBS.items():
        Path(f"{name}.bomb").write_bytes(make(300_000))
    names = sorted(path.name for path in Path().glob("*.bomb"))
    ran = subprocess.run(
        [sys.executable, "-c", BOUNDED, *names],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    ended = {line.split()[0]: line.split(maxsplit=1)[1] for line in ran.stdout.splitlines()}
    assert list(ended) == names
    assert [said for said in ended.items() if said[1][0] not in "02" or "bug" in said[1]] == []
    assert ended["deflated-pickle.bomb"].endswith("a compressed pickle of 30,000,003 bytes']")


def test_row18_numbers_chosen_to_collide_are_no_keys(run: Run) -> None:
    """Multiples of 2 ** 61 - 1 have one hash: as keys, each is compared with all before it."""
    from surgery.checkpoint.pickles.constructors import as_key

    chosen = [at * (2**61 - 1) for at in range(1, 2000)]
    pairs = [(at, 3.0) for at in chosen]
    complex_ones = [complex(-1000003.0 * at, at) for at in range(1, 2000)]
    for keys in (chosen, pairs, complex_ones):
        made = [as_key(key) for key in keys]
        assert len(set(map(hash, made))) > 1900
    saved({"model": WEIGHTS, "odd": dict.fromkeys(chosen)}, "x.pt")
    assert inspected(run, "x.pt")["others"]["odd"].startswith("dict of 1,999")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        pytest.param(
            lambda data: data.replace(b"archive/data/1", b"archive/data/0"),
            "two members are called archive/data/0",
            id="duplicate-members",
        ),
        pytest.param(
            lambda data: data.replace(b"archive/data/0", b"archive/data/9", 1),
            "the header of archive/data/0 disagrees with the directory",
            id="local-name",
        ),
        pytest.param(
            lambda data: (
                data[:30]
                + data[30:].replace(
                    LOCAL + b"\x14\x00\x00\x00\x00\x00", LOCAL + b"\x14\x00\x00\x00\x08\x00"
                )
            ),
            "disagrees with the directory",
            id="local-method",
        ),
        pytest.param(
            lambda data: data.replace(
                CENTRAL + b"\x14\x03\x14\x00\x00", CENTRAL + b"\x14\x03\x14\x00\x01"
            ),
            "is encrypted",
            id="encrypted",
        ),
        pytest.param(
            lambda data: data.replace(
                b"\x14\x03\x14\x00\x00\x00\x00\x00", b"\x14\x03\x14\x00\x00\x00\x0c\x00"
            ),
            "compressed by method 12, not deflate",
            id="bzip2",
        ),
        pytest.param(
            lambda data: patched(data, END, 4, b"\x01\x00"), "one part of an archive", id="split"
        ),
        pytest.param(
            lambda data: patched(data, END, 10, b"\xff\xff"),
            "64-bit directory is missing",
            id="zip64",
        ),
        pytest.param(
            lambda data: patched(data, END, 16, b"\xf0\xff\xff\xff"),
            "its directory",
            id="directory-far",
        ),
        pytest.param(
            lambda data: patched(data, END, 10, b"\x09\x00"),
            "a damaged zip file",
            id="more-members",
        ),
        pytest.param(
            lambda data: data.replace(CENTRAL, b"PK\x09\x09"),
            "its directory is wrong",
            id="no-entry",
        ),
        pytest.param(
            lambda data: data[:-22] + data[-22:].replace(END, b"PK\x09\x09"),
            "cut short",
            id="no-end",
        ),
    ],
)
def test_row18_zip_files_at_odds_with_themselves(
    damage: Callable[[bytes], bytes], cause: str, run: Run
) -> None:
    model = dict_of({"a": tensor(), "b": tensor(STORAGE.replace(b"U\x010", b"U\x011"))})
    data = zip_of(model, {"0": bytes(12), "1": bytes(12)})
    assert damage(data) != data
    Path("x.pt").write_bytes(damage(data))
    assert_unusable(run, cause, "x.pt")


def test_row18_zip64_is_read(run: Run) -> None:
    """Torch writes it beyond 4 GiB; here by hand, every size and offset in the extra field."""
    members = members_of(zip_of(dict_of({"a": tensor()}), {"0": struct.pack("<3f", 1, 2, 3)}))
    body, directory = b"", b""
    for name, data in members.items():
        crc = zlib.crc32(data)
        extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), len(body))
        directory += CENTRAL + struct.pack(
            "<6H3I5H2I",
            45,
            45,
            0,
            0,
            0,
            0,
            crc,
            *[0xFFFFFFFF] * 2,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            0xFFFFFFFF,
        )
        directory += name.encode() + extra
        body += LOCAL + struct.pack(
            "<5H3I2H", 45, 0, 0, 0, 0, crc, len(data), len(data), len(name), 0
        )
        body += name.encode() + data
    end = b"PK\x06\x06" + struct.pack(
        "<Q2H2I4Q", 44, 45, 45, 0, 0, len(members), len(members), len(directory), len(body)
    )
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(body) + len(directory), 1)
    last = END + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    Path("x.pt").write_bytes(body + directory + end + locator + last)
    assert torch.load("x.pt", weights_only=True)["a"].tolist() == [1, 2, 3]
    assert transferred(run, "x.pt", "out.safetensors")["a"].tolist() == [1, 2, 3]


# 19. Two sources to one target; a cycle of names


def test_row19_two_sources_to_one_target_are_an_error(run: Run) -> None:
    saved(
        {"x.weight": torch.ones(2, 3), "y.weight": torch.zeros(2, 3), "a.bias": torch.ones(2)},
        "x.pt",
    )
    Path("map.txt").write_text("x -> a\ny -> a\n")
    words = ("transfer", "x.pt", f"like:{GOOD}", "--mapping", "map.txt", "-o", "out.safetensors")
    before = snapshot(Path())
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert "a.weight" in result.stderr
    assert snapshot(Path()) == before


@pytest.mark.parametrize(
    "lines", ["b -> c\na -> b\nc -> a", "a -> b\nb -> c\nc -> a"], ids=["one-order", "another"]
)
def test_row19_a_cycle_of_swapped_names_has_the_right_values(lines: str, run: Run) -> None:
    state = {f"{name}.w": torch.full((2,), float(at)) for at, name in enumerate("abc")}
    saved(state, "x.pt")
    Path("map.txt").write_text(lines)
    written = transferred(run, "x.pt", "out.safetensors", "--mapping", "map.txt")
    assert {n: v[0].item() for n, v in written.items()} == {"b.w": 0.0, "c.w": 1.0, "a.w": 2.0}


# 20. A million keys: seconds, not quadratic


def calls(action: Callable[[], object]) -> int:
    """How many calls Python makes, its own functions and those in C: work, and no clock."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counted


def zero_sized(names: Iterator[str]) -> bytes:
    return safetensors_of({n: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in names})


def many(kind: str, count: int) -> bytes:
    model, other = dict_of({"a": tensor() + b"q\x00"}), dict_of({"a": b"h\x00"})
    names = [f"n{at}" for at in range(count)]
    if kind == "numbered":
        return zero_sized(f"layer.{at}.w" for at in range(count))
    if kind == "unlike":
        return zero_sized(
            f"{at * 2654435761 % 2**32:08x}".translate(_LETTERS) for at in range(count)
        )
    if kind == "aliases":
        kept = {
            f"m.{at}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for at in range(count)
        }
        return safetensors_of(
            {**kept, "__metadata__": {f"m.x{at}": f"m.{at}" for at in range(count)}}
        )
    if kind == "state-dicts":
        return zip_of(dict_of({"first": model, **dict.fromkeys(names, other)}))
    if kind == "others":
        return zip_of(
            dict_of({"m": model, **dict.fromkeys(names, other), **{f"o{n}": b"N" for n in names}})
        )
    if kind == "tensors-and-state-dicts":
        return zip_of(
            dict_of(
                {"m": model, **{f"t{n}": b"h\x00" for n in names}, **dict.fromkeys(names, other)}
            )
        )
    return zip_of(dict_of({"a": tensor() + b"q\x00", **{f"l.{n}.w": b"h\x00" for n in names}}))


_LETTERS = str.maketrans("0123456789", "ghijklmnop")
MANY = ["numbered", "unlike", "aliases", "state-dicts", "others", "tensors-and-state-dicts", "ties"]


@pytest.mark.parametrize("kind", MANY)
def test_row20_inspecting_many_keys_is_not_quadratic(kind: str, run: Run) -> None:
    work = []
    for count in (1000, 4000):
        Path("x.pt").write_bytes(many(kind, count))
        assert run("inspect", "x.pt").exit_code == 0
        work.append(calls(lambda: run("inspect", "x.pt")))
    assert work[1] < 6 * work[0]


def test_row20_transfer_and_diff_of_many_keys_are_not_quadratic(run: Run) -> None:
    def work(count: int) -> int:
        for name, first in (("x.safetensors", 0), ("y.safetensors", count // 2)):
            Path(name).write_bytes(zero_sized(f"l.{at}.w" for at in range(first, first + count)))
        run("diff", "x.safetensors", "y.safetensors")
        words = (
            "transfer",
            "x.safetensors",
            "like:y.safetensors",
            "--dry-run",
            "--min-loaded",
            "0",
        )
        return calls(lambda: (run("diff", "x.safetensors", "y.safetensors"), run(*words)))

    assert work(4000) < 6 * work(1000)


@pytest.mark.parametrize("kind", ["numbered", "unlike", "ties"])
def test_row20_a_hundred_thousand_keys_end(kind: str, run: Run) -> None:
    Path("x.pt").write_bytes(many(kind, 100_000))
    ran = subprocess.run(
        [*SURGERY, "inspect", "x.pt"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "100,00" in ran.stdout


# 21. Terminal escapes in names

ESCAPE = "\x1b[31mred\x1b]0;title\x07\r\x9b\u202e"


def escapes_everywhere() -> None:
    state = {f"{ESCAPE}.w": torch.ones(2), f"{ESCAPE}.v": torch.ones(2)}
    saved({"state_dict": state, ESCAPE: 3, "text": ESCAPE}, "x.pt")
    surgery.save(state, "y.safetensors", metadata={ESCAPE: ESCAPE})
    opaque = b"c\x1b[31mfoo\nBar\x07\n)R"
    Path("z.pt").write_bytes(zip_of(dict_of({"m": dict_of({"a": tensor()}), "o": opaque})))
    shutil.copy("x.pt", "\x1b[31mfile\x07.pt")


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "x.pt"),
        ("inspect", "y.safetensors"),
        ("inspect", "z.pt"),
        ("inspect", "\x1b[31mfile\x07.pt"),
        ("inspect", "\x1b[31mmissing\x07.pt"),
        ("inspect", "x.pt", "--json"),
        ("diff", "x.pt", GOOD),
        ("diff", "\x1b[31mfile\x07.pt", "y.safetensors"),
        ("transfer", "x.pt", f"like:{GOOD}", "--dry-run"),
        ("transfer", "x.pt", "like:y.safetensors", "-o", "out\x07.safetensors"),
        ("transfer", "x.pt", "like:y.safetensors", "--key", ESCAPE),
        ("transfer", "x.pt", f"\x1b[31m{ESCAPE}"),
    ],
    ids=lambda words: ascii(words[0] + words[1][-4:]),
)
def test_row21_escapes_are_printed_as_text(words: tuple[str, ...], run: Run) -> None:
    escapes_everywhere()
    result = run(*words)
    assert result.exit_code in (0, 1, 2)
    assert result.output.replace("\n", "").isprintable()


# 22. Mode, umask, links, writers at the same time


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@both_formats
@pytest.mark.usefixtures("umask")
@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_row22_the_umask_and_an_old_files_mode_are_respected(suffix: str, run: Run) -> None:
    out = Path(f"out.{suffix}")
    words = ("transfer", GOOD, f"like:{GOOD}", "-o", out)
    assert run(*words).exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    out.chmod(0o604)
    assert run(*words, "--force").exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o604


@both_formats
def test_row22_a_symbolic_link_is_written_through(suffix: str, run: Run) -> None:
    Path("real").mkdir()
    Path("real", f"old.{suffix}").write_bytes(b"old")
    out = Path(f"out.{suffix}")
    out.symlink_to(Path("real", f"old.{suffix}"))
    assert run("transfer", GOOD, f"like:{GOOD}", "-o", out, "--force").exit_code == 0
    assert out.is_symlink()
    assert [path.name for path in Path("real").iterdir()] == [f"old.{suffix}"]
    assert_same_bits(dict(surgery.open_checkpoint(out).state_dict()), WEIGHTS)


def test_row22_of_two_writers_the_last_one_wins_whole(run: Run) -> None:
    for at in range(2):
        surgery.save({"a": torch.full((200_000,), float(at))}, f"x{at}.safetensors")
    out = ["-o", "out.safetensors", "--force"]
    words = [
        [*SURGERY, "transfer", f"x{at}.safetensors", f"like:x{at}.safetensors", *out]
        for at in range(2)
    ]
    running = [subprocess.Popen(each, stdout=subprocess.DEVNULL) for each in words]
    assert [one.wait(timeout=120) for one in running] == [0, 0]
    written = safetensors.torch.load_file("out.safetensors")["a"]
    assert written.tolist() in ([0.0] * 200_000, [1.0] * 200_000)
    assert not list(Path().glob(".*"))


# 23. Ctrl-C and a closed pipe: 130, and nothing left behind

INTERRUPTED = "import os, signal\ndef make():\n    os.kill(os.getpid(), signal.SIGINT)\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_row23_ctrl_c_is_130_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    Path("net.py").write_text(INTERRUPTED)
    before = snapshot(tmp_path)
    ran = subprocess.run(
        [*SURGERY, "transfer", GOOD, "net.py:make", "-o", "out.safetensors"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (ran.returncode, ran.stdout, ran.stderr.strip()) == (130, "", "error: interrupted")
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_row23_a_closed_pipe_is_130_without_a_word(run: Run) -> None:
    """The reader is gone before the first word, so that no buffer can take it."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [*SURGERY, "inspect", GOOD]
    ran = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (130, b"")


# 24. Nothing at all is something too

EMPTY = {
    "zero-size": {
        "a": torch.empty(0),
        "b": torch.empty(3, 0, 2),
        "c": torch.empty(0, dtype=torch.bool),
    },
    "scalars": {
        "a": torch.tensor(1.5),
        "b": torch.tensor(True),
        "c": torch.tensor(2, dtype=torch.int8),
    },
    "a-name-of-nothing": {"": torch.ones(2)},
    "empty": {},
}


@both_formats
@pytest.mark.parametrize("name", EMPTY)
def test_row24_empty_things_round_trip(name: str, suffix: str, run: Run) -> None:
    state = EMPTY[name]
    surgery.save(state, f"x.{suffix}")
    other = {"pt": "safetensors", "safetensors": "pt"}[suffix]
    surgery.save(surgery.open_checkpoint(f"x.{suffix}").state_dict(), f"y.{other}")
    for path in (f"x.{suffix}", f"y.{other}"):
        plain = (
            safetensors.torch.load_file(path)
            if path.endswith("safetensors")
            else dict(torch.load(path, weights_only=True))
        )
        assert_same_bits(plain, state)
        assert len(inspected(run, path)["state_dicts"][0]["tensors"]) == len(state)
    assert run("diff", f"x.{suffix}", f"y.{other}").exit_code == 0
    if state:
        assert_same_bits(transferred(run, f"x.{suffix}", "out.pt"), state)


def test_row24_a_transfer_of_nothing_ends_in_a_word(run: Run) -> None:
    surgery.save({}, "x.pt")
    result = run("transfer", "x.pt", f"like:{GOOD}", "-o", "out.safetensors")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert not Path("out.safetensors").exists()
