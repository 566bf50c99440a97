"""torch's own files: as torch.load reads them, plus the faults that torch reads past."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surgery.checkpoint import open_checkpoint, read_contents
from surgery.checkpoint.formats import torch_files
from surgery.checkpoint.source import Reader
from surgery.errors import CheckpointError, DamageRefused
from surgery.specs import DTYPE_BITS

ZIP = pytest.param({}, id="zip")
STREAM = pytest.param({"_use_new_zipfile_serialization": False}, id="stream")
both_formats = pytest.mark.parametrize("how", [ZIP, STREAM])


def rewrite(
    source: Path,
    target: Path,
    change: Callable[[str, bytes], bytes | None] = lambda _, data: data,
    method: int = zipfile.ZIP_STORED,
) -> None:
    """Copy a zip file member by member; ``change`` gives new bytes, or None to leave one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)


def bits(value: torch.Tensor) -> list[int]:
    return value.contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_as_torch_reads(path: Path) -> None:
    state = open_checkpoint(path).state_dict()
    expected = torch.load(path, weights_only=True)
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        assert state[name].shape == value.shape
        assert bits(state[name]) == bits(value), name


@both_formats
def test_a_state_dict(how: dict[str, Any], state: OrderedDict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt", **how)
    assert_as_torch_reads(tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.format == ("torch stream" if how else "torch zip")
    assert checkpoint.opaque == ()
    assert checkpoint.versions[""] == 1
    assert checkpoint.versions["1"] == 2  # batch norm


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@both_formats
@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_bit_for_bit(dtype: str, how: dict[str, Any], tmp_path: Path) -> None:
    data = torch.arange(256, dtype=torch.uint8)
    value = (data % 2 if dtype == "bool" else data).view(getattr(torch, dtype)).reshape(2, 2, -1)
    torch.save({"a": value, "b": value.clone()}, tmp_path / "a.pt", **how)
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.specs[0].dtype == dtype
    assert bits(checkpoint.tensor("a")) == bits(value)


@both_formats
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda base: base.t(), id="transposed"),
        pytest.param(lambda base: base[1:3, 2], id="column"),
        pytest.param(lambda base: base[::2, ::3], id="strided"),
        pytest.param(lambda base: base[3], id="row"),
        pytest.param(lambda base: base[2, 2], id="scalar"),
        pytest.param(lambda base: base[:0], id="empty"),
        pytest.param(lambda base: base[:1].expand(7, 6), id="expanded"),
        pytest.param(lambda base: base.as_strided((3, 3), (1, 1), 2), id="overlapping"),
        pytest.param(lambda base: base.reshape(2, 3, 2, 2).permute(3, 0, 2, 1), id="permuted"),
        pytest.param(lambda base: base.to(torch.complex64).conj(), id="conjugate"),
        pytest.param(lambda base: (base * (1 + 2j)).conj().imag, id="negative"),
    ],
)
def test_views(view: Callable[..., torch.Tensor], how: dict[str, Any], tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    torch.save({"a": view(base), "b": base}, tmp_path / "a.pt", **how)
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    read = checkpoint.tensor("a")
    assert torch.equal(read, view(base))
    read.zero_()
    assert torch.equal(checkpoint.tensor("a"), view(base))


@both_formats
def test_ties_share_memory_and_other_views_do_not(how: dict[str, Any], tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {"a": base, "b": base, "half": base[:3], "c": base.view(2, 3), "e": base[:0]}
    torch.save(tensors, tmp_path / "a.pt", **how)
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.ties == (("a", "b"),)
    state = checkpoint.state_dict()
    state["a"].zero_()
    assert state["b"].sum() == 0
    assert state["half"].tolist() == [0, 1, 2]


@both_formats
def test_parameters_and_a_whole_module(how: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Identity())
    model.register_buffer("kept", torch.ones(2))
    model.register_buffer("hidden", torch.ones(2), persistent=False)
    model[2].shared = model[0]
    torch.save(model, tmp_path / "a.pt", **how)
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    expected = model.state_dict()
    assert list(checkpoint.by_name) == list(expected)
    assert checkpoint.ties == (("0.weight", "2.shared.weight"), ("0.bias", "2.shared.bias"))
    assert "torch.nn.modules.linear.Linear" in checkpoint.opaque
    assert all(torch.equal(checkpoint.tensor(name), value) for name, value in expected.items())


@both_formats
def test_tensors_of_other_kinds_are_refused_alone(how: dict[str, Any], tmp_path: Path) -> None:
    ones = torch.ones(2, 2)
    state = {
        "good": ones,
        "also": ones + 1,
        "sparse": ones.to_sparse(),
        "meta": ones.to("meta"),
        "step": 3,
    }
    torch.save(state, tmp_path / "a.pt", **how)
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert list(checkpoint.state_dict()) == ["good", "also"]
    assert [name for name, _ in checkpoint.unreadable] == ["sparse", "meta"]
    assert "a sparse tensor" in checkpoint.unreadable[0][1]
    assert "a meta tensor" in checkpoint.unreadable[1][1]
    assert checkpoint.not_tensors == ("step",)
    with pytest.raises(CheckpointError, match="sparse is a sparse tensor"):
        checkpoint.tensor("sparse")


def test_an_absurd_expansion_is_refused_alone(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**12), "b": torch.ones(1)}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.unreadable == (("a", "a view that repeats 1 value"),)
    assert list(checkpoint.by_name) == ["b"]


def test_deflated_members(state: OrderedDict[str, Any], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "b.pt", method=zipfile.ZIP_DEFLATED)
    read = open_checkpoint(tmp_path / "b.pt").state_dict()
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_big_endian_numbers(tmp_path: Path) -> None:
    value = torch.tensor([1.0, -2.5])
    pair = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128)
    torch.save({"a": value, "b": pair}, tmp_path / "a.pt")

    def swapped(name: str, data: bytes) -> bytes:
        if name.endswith("/byteorder"):
            return b"big"
        width = {"a/data/0": 4, "a/data/1": 8}.get(name)
        if width is None:
            return data
        return b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))

    rewrite(tmp_path / "a.pt", tmp_path / "big.pt", swapped)
    checkpoint = open_checkpoint(tmp_path / "big.pt")
    assert torch.equal(checkpoint.tensor("a"), value)
    assert torch.equal(checkpoint.tensor("b"), pair)


def test_python_2_text_pairs_and_storage_views(fixtures: Path) -> None:
    checkpoint = open_checkpoint(fixtures / "python2.pkl")
    expected = open_checkpoint(fixtures / "zip.pt").state_dict()
    assert checkpoint.format == "torch stream"
    for name, value in checkpoint.state_dict().items():
        assert name.endswith("_é")
        assert torch.equal(value, expected[name.removesuffix("_é")])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_is_found_on_request(method: int, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(300), "b": torch.ones(3)}, tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "b.pt", method=method)
    open_checkpoint(tmp_path / "b.pt").verify().refuse_damage()
    data = bytearray((tmp_path / "b.pt").read_bytes())
    crc = zlib.crc32(bytes(1200)).to_bytes(4, "little")
    data[data.rindex(crc)] ^= 1  # in the directory: the same disagreement, whatever the method
    (tmp_path / "c.pt").write_bytes(data)
    with pytest.raises(DamageRefused, match=r"the bytes of 1 tensor \(a\) have changed"):
        open_checkpoint(tmp_path / "c.pt").verify().refuse_damage()


@pytest.mark.parametrize("name", ["zip.pt", "stream.pth", "flat.safetensors", "sharded_bin"])
def test_sound_files_verify(name: str, fixtures: Path) -> None:
    assert open_checkpoint(fixtures / name).verify().findings == ()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def shorter(name: str, data: bytes) -> bytes:
    return data[:4] if "/data/" in name else data


def without_storages(name: str, data: bytes) -> bytes | None:
    return None if "/data/" in name else data


def odd_order(name: str, data: bytes) -> bytes:
    return b"middle" if name.endswith("byteorder") else data


def out_of_bounds(name: str, data: bytes) -> bytes:
    return data.replace(b"K\x03\x85", b"K\x09\x85") if name.endswith("data.pkl") else data


def negative(name: str, data: bytes) -> bytes:
    return data.replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(shorter, "expected 12 bytes, have 4", id="short-storage"),
        pytest.param(without_storages, "storage 0 is missing", id="no-storage"),
        pytest.param(odd_order, "neither little nor big", id="byte-order"),
        pytest.param(out_of_bounds, "reaches element 9 of a storage of 3", id="out-of-bounds"),
        pytest.param(negative, "negative size", id="negative-size"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_at_odds_with_itself(
    change: Callable[..., bytes | None],
    problem: str,
    method: int,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "bad.pt", change, method)
    assert problem in refusal(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        pytest.param(["m/data.pkl", "m/constants.pkl"], "a TorchScript archive", id="torchscript"),
        pytest.param(["weights.npy"], "a zip archive of weights.npy, not written by", id="npz"),
        pytest.param(["model.weights.h5"], "a zip archive of model.weights.h5, not", id="keras"),
        pytest.param(["word/a.xml"], "a zip archive of word/a.xml, not written by", id="other"),
        pytest.param([], "a zip archive of nothing", id="empty-archive"),
    ],
)
def test_zip_files_of_others_are_named(
    names: list[str], problem: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in names:
            archive.writestr(name, b"N.")
    assert problem in refusal(tmp_path / "a.pt")


def edit(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in data
    return data.replace(old, new, count)


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(lambda d: d[: len(d) // 2], "cut short: a zip file", id="cut"),
        pytest.param(
            lambda d: edit(d, CENTRAL, b"PK\x01\x09", 1), "its directory is wrong", id="entry"
        ),
        pytest.param(
            lambda d: d[: d.index(LOCAL) + 4] + edit(d[d.index(LOCAL) + 4 :], LOCAL, b"PK\x03\x09"),
            "disagrees with the directory",
            id="local-header",
        ),
        pytest.param(
            lambda d: edit(d, b"archive/data/0", b"archive/data/9", 1),
            "disagrees with the directory",
            id="local-name",
        ),
        pytest.param(
            lambda d: edit(d, b"archive/data/1", b"archive/data/0"),
            "two members are called archive/data/0",
            id="duplicate",
        ),
        pytest.param(
            lambda d: d[: d.rindex(END) + 10] + b"\x09" + d[d.rindex(END) + 11 :],
            "damaged zip file",
            id="count",
        ),
    ],
)
def test_damaged_zip_structures(
    damage: Callable[[bytes], bytes], problem: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    data = saved({"a": torch.zeros(3), "b": torch.zeros(4)})
    (tmp_path / "a.pt").write_bytes(damage(data))
    assert problem in refusal(tmp_path / "a.pt")


def test_a_deflate_bomb_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"N" * 1_000_000 + b".")
        archive.writestr("a/version", b"3")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    size_at = data.index(CENTRAL) + 24
    data[size_at : size_at + 4] = (2_000_000_000).to_bytes(4, "little")
    (tmp_path / "a.pt").write_bytes(data)
    assert "claims 2,000,000,000 bytes" in refusal(tmp_path / "a.pt")


def test_an_encrypted_member_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    data = bytearray(saved({"a": torch.zeros(3)}))
    data[data.index(CENTRAL) + 8] |= 1
    (tmp_path / "a.pt").write_bytes(data)
    assert "is encrypted" in refusal(tmp_path / "a.pt")


def stream_of(**changes: bytes) -> bytes:
    """A stream by its parts: one float tensor of three elements, storage key ``k``."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpuK\x03NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x03\x85K\x01\x85tR"
    parts = {
        "magic": pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        "protocol": pickle.dumps(1001, 2),
        "system": pickle.dumps({}, 2),
        "value": b"\x80\x02}U\x01a" + tensor + b"s.",
        "keys": b"\x80\x02](U\x01ke.",
        "size": (3).to_bytes(8, "little"),
        "data": bytes(12),
    }
    return b"".join((parts | changes).values())


def test_the_stream_of_the_next_test_is_sound_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(stream_of())
    assert_as_torch_reads(tmp_path / "a.pt")


@pytest.mark.parametrize("protocol", range(6))
def test_streams_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol)
    (tmp_path / "a.pt").write_bytes(stream_of(magic=magic))
    assert open_checkpoint(tmp_path / "a.pt").tensor("a").tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(
            {"protocol": pickle.dumps(9, 2)}, "expected stream protocol 1001", id="protocol"
        ),
        pytest.param({"keys": pickle.dumps([], 2)}, "storage k is missing", id="no-key"),
        pytest.param({"keys": pickle.dumps(["z"], 2)}, "belongs to no tensor", id="other-key"),
        pytest.param({"keys": pickle.dumps(7, 2)}, "expected the list of storage keys", id="keys"),
        pytest.param({"size": (4).to_bytes(8, "little")}, "3 elements, found 4", id="size"),
        pytest.param({"size": b"\xff" * 8}, "3 elements, found -1", id="negative-size"),
        pytest.param({"size": b"", "data": b""}, "cut short", id="cut-before-size"),
        pytest.param({"data": bytes(5)}, "have", id="cut"),
        pytest.param({"value": b"\x80\x02K\x01Q."}, "names no storage", id="persistent-id"),
    ],
)
def test_damaged_streams(
    changes: dict[str, bytes], problem: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / "a.pt").write_bytes(stream_of(**changes))
    assert problem in refusal(tmp_path / "a.pt")


def test_a_cut_stream_says_what_was_expected(tmp_path: Path, refusal: Callable[..., str]) -> None:
    data = stream_of()
    (tmp_path / "a.pt").write_bytes(data[:-5])
    assert f"expected {len(data)} bytes, have {len(data) - 5}" in refusal(tmp_path / "a.pt")


def test_a_module_that_holds_itself_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    attributes = b"}(U\x0b_parameters}U\x08_modules}U\x04selfh\x00su"
    value = b"\x80\x02cfoo\nBar\n)\x81q\x00" + attributes + b"b."
    (tmp_path / "a.pt").write_bytes(stream_of(value=value, keys=pickle.dumps([], 2)))
    assert "a module that holds itself" in refusal(tmp_path / "a.pt")


def test_code_is_named_and_the_tensors_are_read(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('ran')",)

    torch.save({"state_dict": {"a": torch.ones(2)}, "extra": Payload()}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.opaque == ("builtins.exec",)
    assert checkpoint.tensor("a").tolist() == [1, 1]
    assert read_contents(tmp_path / "a.pt").others == (("extra", "builtins.exec (opaque)"),)


def test_headers_are_found_in_any_order_and_at_any_distance(tmp_path: Path) -> None:
    """Small members share a read of their headers; a big one between them does not."""
    sizes = [3, 5, 1 << 17, 2, 7, 2000, 1]
    tensors = {f"t{at}": torch.arange(size) + at for at, size in enumerate(sizes)}
    torch.save(tensors, tmp_path / "forwards.pt")
    _with_directory_reversed(tmp_path / "forwards.pt", tmp_path / "backwards.pt")
    for name in ("forwards.pt", "backwards.pt"):
        checkpoint = open_checkpoint(tmp_path / name)
        for key, tensor in tensors.items():
            assert torch.equal(checkpoint.tensor(key), tensor)


def test_very_many_state_dicts_are_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    held = {f"k{at}": {"w": torch.ones(1)} for at in range(300)}
    beside = {"k": 1, "k1.w": 2, "k30": 3, "l": 4}
    torch.save({**held, **beside}, tmp_path / "a.pt")
    contents = read_contents(tmp_path / "a.pt")
    assert len(contents.state_dicts) == 299  # k30 is a number now
    assert dict(contents.others) == {key: f"int {value}" for key, value in beside.items()}


def _with_directory_reversed(old: Path, new: Path) -> None:
    """The same members, the last one first in the file."""
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for member in reversed(source.infolist()):
            target.writestr(member.filename, source.read(member))


@pytest.mark.parametrize("first", [1, 60, 1000])
def test_a_stream_is_read_as_far_as_its_pickles_go(
    first: int, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_checkpoint(fixtures / "stream.pth")
    monkeypatch.setattr(torch_files, "_FIRST_READ", first)
    assert open_checkpoint(fixtures / "stream.pth").specs == whole.specs


def test_no_more_than_a_streams_pickles_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"a": torch.zeros(2_000_000)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    counts: list[int] = []
    read = Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, start, count: counts.append(count) or read(self, start, count)
    )
    assert open_checkpoint(tmp_path / "a.pt").specs
    assert max(counts) <= 1 << 20
