"""Checksums, NaN and Inf: against zlib's and torch's own answers."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.checkpoint import open_checkpoint, pieces, read_contents
from surgery.checkpoint.source import Reader
from surgery.checkpoint.verification import Verification
from surgery.checkpoint.writer import save
from surgery.errors import CheckpointError, DamageRefused, Refused
from surgery.specs import DTYPE_BITS, is_floating

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
modest = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[16, 48, 1 << 17], ids=lambda size: f"pieces-of-{size}")
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(pieces, "PIECE", request.param)
    return int(request.param)


def rewrite(
    path: Path, change: Callable[[str, bytes], bytes] = lambda _, data: data, **how: Any
) -> None:
    """Write the zip file anew, member by member, with checksums of the new bytes."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", **how) as new:
        for name, data in members:
            new.writestr(name, change(name, data))


def flip(path: Path, needle: bytes, bit: int = 1) -> None:
    """Flip a bit of the one place in the file that has these bytes."""
    data = bytearray(path.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle)] ^= bit
    path.write_bytes(data)


def by_name(verification: Verification) -> dict[str, tuple[int, int]]:
    return {f.names[0][1]: (f.nan, f.inf) for f in verification.findings if f.nan or f.inf}


def expected(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    counts = {
        name: (int(plain(v).isnan().sum()), int(plain(v).isinf().sum()))
        for name, v in state.items()
    }
    return {name: found for name, found in counts.items() if any(found)}


def plain(value: torch.Tensor) -> torch.Tensor:
    if value.is_complex():
        return value.to(torch.complex128)
    return value.to(torch.float64) if value.dtype != torch.float4_e2m1fn_x2 else torch.zeros(1)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [name for name, bits in DTYPE_BITS.items() if bits == 8])
def test_every_code_of_8_bits(dtype: str, suffix: str, tmp_path: Path, piece: int) -> None:
    codes = torch.arange(2 if dtype == "bool" else 256, dtype=torch.uint8)
    state = {"a": codes.view(getattr(torch, dtype))}
    save(state, tmp_path / f"a{suffix}")
    assert by_name(open_checkpoint(tmp_path / f"a{suffix}").verify()) == expected(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_code_of_16_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"a": torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)}
    save(state, tmp_path / "a.pt")
    found = by_name(open_checkpoint(tmp_path / "a.pt").verify())
    assert found == expected(state)
    assert found["a"][1] == 2


# Around the codes where infinity ends and NaN begins, of either sign.
ODD = [0.0, -0.0, 1.0, float("inf"), -float("inf"), float("nan"), 3.4e38, -3.4e38, 1e-45]


@modest
@given(data=st.data())
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    "dtype", [name for name, bits in DTYPE_BITS.items() if bits > 8 and is_floating(name)]
)
def test_counts_are_torchs(
    dtype: str, big_endian: bool, data: st.DataObject, tmp_path: Path, piece: int
) -> None:
    kind = getattr(torch, dtype)
    parts = data.draw(st.lists(st.sampled_from(ODD), min_size=2, max_size=80))
    real = {"complex32": torch.float16, "complex64": torch.float32}.get(
        dtype, torch.float64 if kind.is_complex else kind
    )
    row = torch.tensor(parts[: len(parts) // 2 * 2], dtype=real)
    state = {"a": row.view(kind), "steps": torch.tensor([-1, 0x7FC00000])}
    torch.save(state, tmp_path / "a.pt")
    if big_endian:
        rewrite(tmp_path / "a.pt", lambda name, raw: swapped(name, raw, real.itemsize))
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert by_name(checkpoint.verify()) == expected(state)
    assert checkpoint.verify().damaged == ()


def swapped(name: str, raw: bytes, width: int) -> bytes:
    if name.endswith("/byteorder"):
        return b"big"
    if not name.endswith("/data/0"):
        return raw
    return b"".join(raw[at : at + width][::-1] for at in range(0, len(raw), width))


def special(count: int) -> torch.Tensor:
    row = torch.arange(count, dtype=torch.float32)
    row[::3] = float("nan")
    row[1::4] = float("inf")
    return row


VIEWS = {
    "whole": lambda row: row,
    "part": lambda row: row[5:9],
    "nothing-amiss": lambda row: row[2:3],
    "matrix": lambda row: row.view(6, 10),
    "transposed": lambda row: row.view(6, 10).t(),
    "column": lambda row: row.view(6, 10)[:, 3],
    "block": lambda row: row.view(6, 10)[1:5, 2:7],
    "steps": lambda row: row.view(6, 10)[::2, ::3],
    "permuted-block": lambda row: row.view(3, 4, 5)[:, 1:3, ::2].permute(2, 0, 1),
    "expanded": lambda row: row[3:6, None].expand(3, 7),
    "one-expanded": lambda row: row[3].expand(4, 2),
    "windows": lambda row: row.unfold(0, 4, 1),
    "wide-windows": lambda row: row.as_strided((5, 4, 3), (7, 7, 2), 1),
    "scalar": lambda row: row[0],
    "empty": lambda row: row[:0],
}


@pytest.mark.parametrize("how", VIEWS)
def test_a_view_counts_what_it_shows(how: str, tmp_path: Path, piece: int) -> None:
    state = {"v": VIEWS[how](special(60))}
    torch.save(state, tmp_path / "a.pt")
    assert by_name(open_checkpoint(tmp_path / "a.pt").verify()) == expected(state)


@modest
@given(
    sizes=st.lists(st.integers(0, 5), max_size=4),
    strides=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    offset=st.integers(0, 9),
)
def test_any_strides(
    sizes: list[int], strides: list[int], offset: int, tmp_path: Path, piece: int
) -> None:
    view = special(200).as_strided(sizes, strides[: len(sizes)], offset)
    torch.save({"v": view, "same": view, "all": view.as_strided((200,), (1,), 0)}, tmp_path / "a")
    state = {"v": view, "all": special(200)}
    verification = open_checkpoint(tmp_path / "a").verify()
    assert by_name(verification) == expected(state)
    assert verification.nbytes == 800


def test_ties_count_once_under_all_their_names(tmp_path: Path) -> None:
    value = special(6)
    torch.save({"x": {"a": value, "b": value}, "y": {"a": value}}, tmp_path / "a.pt")
    verification = read_contents(tmp_path / "a.pt").verify()
    (finding,) = verification.findings
    assert finding.names == (("x", "a"), ("x", "b"), ("y", "a"))
    assert (verification.tensors, verification.nan, verification.inf) == (1, 2, 2)


def test_a_flipped_bit_that_torch_accepts(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    tied = torch.full((40,), 7.0)
    torch.save({"sound": torch.ones(3), "emb.weight": tied, "head.weight": tied}, path)
    open_checkpoint(path).verify().refuse_damage()
    flip(path, bytes(tied.numpy().tobytes()), bit=0x10)
    assert torch.load(path)["emb.weight"][0] != 7
    verification = open_checkpoint(path).verify()
    assert verification.damaged == ((None, "emb.weight"), (None, "head.weight"))
    assert verification.unchecked == 0
    with pytest.raises(DamageRefused, match=r"2 tensors \(emb.weight, head.weight\) have"):
        verification.refuse_damage()
    assert issubclass(DamageRefused, Refused)


def test_damage_and_counts_together(tmp_path: Path, piece: int) -> None:
    torch.save({"a": special(60)}, tmp_path / "a.pt")
    flip(tmp_path / "a.pt", special(60).numpy().tobytes()[8:])
    (finding,) = open_checkpoint(tmp_path / "a.pt").verify().findings
    assert finding.damaged
    assert (finding.nan, finding.inf) == expected({"a": special(60)})["a"]


@pytest.mark.parametrize("level", [1, 9])
def test_deflated_members(level: int, tmp_path: Path, piece: int) -> None:
    state = {"a": special(3000), "b": torch.zeros(5000), "c": torch.randn(2000), "d": special(0)}
    torch.save(state, tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", compression=zipfile.ZIP_DEFLATED, compresslevel=level)
    verification = open_checkpoint(tmp_path / "a.pt").verify()
    assert not verification.is_damaged
    assert by_name(verification) == expected(state)
    assert verification.nbytes == 40_000


def test_any_damage_to_a_deflated_member_names_its_tensor(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(100, generator=generator)
    torch.save({"a": value, "b": torch.zeros(9)}, tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", compression=zipfile.ZIP_DEFLATED)
    sound = (tmp_path / "a.pt").read_bytes()
    machine = zlib.compressobj(-1, zlib.DEFLATED, -15)
    packed = machine.compress(value.numpy().tobytes()) + machine.flush()
    start = sound.index(packed)
    for at in range(start, start + len(packed), 7):
        data = bytearray(sound)
        data[at] ^= 0x24
        (tmp_path / "b.pt").write_bytes(data)
        assert open_checkpoint(tmp_path / "b.pt").verify().damaged == ((None, "a"),)


@pytest.fixture
def without_checksums() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.usefixtures("without_checksums")
def test_torch_can_be_told_to_record_no_checksums(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    verification = read_contents(tmp_path / "a.pt").verify()
    assert not verification.is_damaged
    assert (verification.nbytes, verification.unchecked) == (12, 12)


@pytest.mark.parametrize("name", ["flat.safetensors", "stream.pth", "sharded", "python2.pkl"])
def test_formats_without_checksums_say_so(name: str, fixtures: Path) -> None:
    verification = read_contents(fixtures / name).verify()
    assert verification.unchecked == verification.nbytes > 0
    assert verification.findings == ()


@pytest.mark.parametrize("name", ["zip.pt", "sharded_bin", "timm_ema.pth.tar", "lightning.ckpt"])
def test_zip_files_are_checked_whole(name: str, fixtures: Path) -> None:
    verification = read_contents(fixtures / name).verify()
    assert verification.unchecked == 0
    assert not verification.is_damaged


def test_a_damaged_pickle_is_told_apart_from_the_tensors(tmp_path: Path) -> None:
    torch.save({"layer_a": torch.ones(3)}, tmp_path / "a.pt")
    flip(tmp_path / "a.pt", b"layer_a")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert list(checkpoint.places) == ["mayer_a"]
    assert checkpoint.verify().damaged == ()
    with pytest.raises(DamageRefused, match=r"the bytes of a/data\.pkl have changed"):
        checkpoint.verify().refuse_damage()


def test_contents_see_what_no_state_dict_has(tmp_path: Path) -> None:
    moments = torch.full((5,), 3.25)
    value = {"model": {"w": torch.ones(2)}, "optimizer": {"state": {0: {"m": moments}}}}
    torch.save(value, tmp_path / "a.pt")
    flip(tmp_path / "a.pt", moments.numpy().tobytes())
    assert read_contents(tmp_path / "a.pt").verify().damaged_parts == ("a/data/1",)
    assert not open_checkpoint(tmp_path / "a.pt").verify().is_damaged


def test_a_file_cut_short_while_it_is_open(tmp_path: Path) -> None:
    save({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.truncate(50)
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        checkpoint.verify()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_more_than_a_piece_is_read_at_once(
    method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(
        {"a": torch.randn(300_000), "b": torch.randn(300_000).view(-1, 3)[:, 1]}, tmp_path / "a"
    )
    rewrite(tmp_path / "a", compression=method)
    checkpoint = open_checkpoint(tmp_path / "a")
    asked: list[int] = []
    read = Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, start, count: asked.append(count) or read(self, start, count)
    )
    done: list[int] = []
    assert checkpoint.verify(progress=done.append).nbytes == 2_400_000
    assert max(asked) <= pieces.PIECE
    assert sum(done) >= 2_400_000


def test_checksums_need_no_torch(fixtures: Path) -> None:
    code = (
        "import sys; from surgery.checkpoint import open_checkpoint\n"
        "from surgery.checkpoint.verification import refuse_damage\n"
        "for name in sys.argv[1:]: refuse_damage(open_checkpoint(name).verify(values=False))\n"
        "assert 'torch' not in sys.modules"
    )
    names = [str(fixtures / name) for name in ("zip.pt", "stream.pth", "sharded", "sharded_bin")]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *names], check=True)


def test_names_from_the_file_are_printed_as_text(tmp_path: Path) -> None:
    value = torch.full((3,), 5.5)
    torch.save({"\x1b[31mred": value}, tmp_path / "a.pt")
    flip(tmp_path / "a.pt", value.numpy().tobytes())
    with pytest.raises(DamageRefused, match=r"\(\\x1b\[31mred\)") as caught:
        open_checkpoint(tmp_path / "a.pt").verify().refuse_damage()
    assert "\x1b" not in str(caught.value)
