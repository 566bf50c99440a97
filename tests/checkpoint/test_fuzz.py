"""Files by chance: valid ones are read as their own libraries read them, damaged ones are borne.

The number of inputs tried is printed at the end of the run. ``make fuzz`` goes on for longer.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickletools
import signal
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strangers import archive_of, members_of, safetensors_of

from fuzz.agreement import try_both
from fuzz.targets import TARGETS
from fuzz.trial import try_file
from surgery.checkpoint import open_checkpoint, read_contents
from surgery.checkpoint.formats.safetensors import DTYPES
from surgery.errors import CheckpointError
from surgery.specs import DTYPE_BITS

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

Tallies = Callable[[str], Callable[[str], None]]
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"

# A hang, on the slowest machine: no input here is larger than some kilobytes.
HANG_SECONDS = 60

# What a file may take while it is looked at: sixty-four bytes of list for one of pickle, twice.
MEMORY_PER_BYTE, MEMORY = 200, 16_000_000


def trying(number: int) -> settings:
    """The same inputs in every run; ``make fuzz`` is for the others."""
    return settings(
        max_examples=number * int(os.environ.get("FUZZ_TIMES", "1")),
        derandomize="FUZZ_TIMES" not in os.environ,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def bits(value: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """Equal for tensors that are equal bit for bit, NaN and all."""
    plain = value.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return value.dtype, tuple(value.shape), data


def all_bits(state: Any) -> dict[str, Any]:
    return {name: bits(value) for name, value in state.items()}


# Valid files

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__" and not name.endswith("_extra_state")
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
RECIPES = st.tuples(st.sampled_from([*DTYPE_BITS]), SHAPES, st.randoms(use_true_random=False))
VIEWS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda value: value,
    lambda value: value.transpose(0, -1) if value.dim() > 1 else value,
    lambda value: value[1:] if value.dim() else value,
    lambda value: value[..., ::2] if value.dim() else value,
    lambda value: value[:1].expand(3, *value.shape[1:]) if value.numel() and value.dim() else value,
    lambda value: value.unsqueeze(0),
    lambda value: value.permute(tuple(reversed(range(value.dim())))),
)


def tensor_of(dtype_name: str, shape: list[int], random: Random) -> torch.Tensor:
    """Random bits of any dtype."""
    dtype = getattr(torch, dtype_name)
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(random.randbytes(size)), dtype=torch.uint8)
    return (flat % 2 if dtype == torch.bool else flat).view(dtype).reshape(shape)


@st.composite
def states(draw: st.DrawFn) -> OrderedDict[str, torch.Tensor]:
    """Tensors of any dtype, strided and shared in any way."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    made: list[torch.Tensor] = []
    for _ in names:
        if made and draw(st.booleans()):  # the same tensor again, or another view of its storage
            made.append(draw(st.sampled_from(VIEWS))(draw(st.sampled_from(made))))
        else:
            made.append(draw(st.sampled_from(VIEWS))(tensor_of(*draw(RECIPES))))
    return OrderedDict(zip(names, made, strict=True))


CONTAINERS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    (".", lambda state: state),
    (".", dict),
    ("state_dict", lambda state: {"state_dict": state, "epoch": 3, "args": {"lr": 0.1}}),
    ("model", lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}}),
    ("a.b", lambda state: {"a": {"b": state}, "note": "x", "shape": torch.Size([1])}),
)
METHODS = (None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def loaded_by_torch(path: Path, value: Any) -> Any:
    """torch's reading; ``value`` where torch cannot read its own stream of newer dtypes."""
    try:
        return torch.load(path, weights_only=True)
    except AttributeError:
        return value


@trying(150)
@given(
    state=states(),
    container=st.sampled_from(CONTAINERS),
    method=st.sampled_from(METHODS),
    stream=st.booleans(),
)
def test_valid_torch_files_are_read_as_torch_reads_them(
    state: OrderedDict[str, torch.Tensor],
    container: tuple[str, Callable[[Any], Any]],
    method: int | None,
    stream: bool,
    tally: Tallies,
    tmp_path: Path,
) -> None:
    key, wrapped = container
    buffer = io.BytesIO()
    torch.save(wrapped(state), buffer, _use_new_zipfile_serialization=not stream)
    data = buffer.getvalue()
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    expected = loaded_by_torch(path, wrapped(state))
    for step in [] if key == "." else key.split("."):
        expected = expected[step]
    if method is not None and not stream:  # torch reads its own alignment only
        path.write_bytes(archive_of(members_of(data), method))
    checkpoint = open_checkpoint(path, key=key)
    assert checkpoint.unreadable == ()
    assert all_bits(checkpoint.state_dict()) == all_bits(expected)
    for name, spec in checkpoint.by_name.items():
        assert (spec.shape, f"torch.{spec.dtype}") == (
            tuple(expected[name].shape),
            str(expected[name].dtype),
        )
    tally("torch files, valid")("stream" if stream else "zip")


@trying(150)
@given(
    recipes=st.dictionaries(NAMES, RECIPES, max_size=6),
    metadata=st.none()
    | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.just("x y")
    ),
)
def test_valid_safetensors_files_are_read_as_safetensors_reads_them(
    recipes: dict[str, Any], metadata: dict[str, str] | None, tally: Tallies, tmp_path: Path
) -> None:
    known = set(DTYPES.values()) - {"float4_e2m1fn_x2"}
    state = {name: tensor_of(*recipe) for name, recipe in recipes.items() if recipe[0] in known}
    path = tmp_path / "a.safetensors"
    if not state:
        metadata = metadata or None  # of two empty mappings safetensors writes what it cannot read
    safetensors.torch.save_file(state, path, metadata=metadata)
    checkpoint = open_checkpoint(path)
    assert all_bits(checkpoint.state_dict()) == all_bits(safetensors.torch.load_file(path))
    assert all_bits(checkpoint.state_dict()) == all_bits(state)
    kept = {k: v for k, v in checkpoint.metadata.items() if k != "format"}
    assert kept == {k: v for k, v in (metadata or {}).items() if k != "format"}
    tally("safetensors files, valid")("equal")


# Damaged files


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """No hang, and no memory out of proportion to the file."""

    def hung(*_: object) -> None:
        raise TimeoutError(f"an input of {size} bytes took longer than {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_SECONDS)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak - held < MEMORY + MEMORY_PER_BYTE * size
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def outcome_of(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    with bounded(len(data)):
        return "opened" if try_file(path) else "refused"


def seeds(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


EDITS = ("flip", "set", "truncate", "remove", "repeat", "splice", "extreme")
EXTREMES = [b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8, b"9" * 20, b"(" * 50]


def damaged(data: bytes, other: bytes, random: Random) -> bytes:
    """A few random edits; ``other`` is where splices come from."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at, end = sorted((random.randrange(len(made) + 1), random.randrange(len(made) + 1)))
        end = min(end, at + 40)
        edit = random.choice(EDITS)
        if edit == "flip" and at < len(made):
            made[at] ^= 1 << random.randrange(8)
        elif edit == "set" and at < len(made):
            made[at] = random.randrange(256)
        elif edit == "truncate" and random.random() < 0.3:
            del made[at:]
        elif edit == "remove":
            del made[at:end]
        elif edit == "repeat":
            made[at:at] = made[at:end] * random.choice((1, 2, 50))
        elif edit == "splice" and other:
            start = random.randrange(len(other))
            made[at:end] = other[start : start + 60]
        else:
            extreme = random.choice(EXTREMES)
            made[at : at + len(extreme)] = extreme
    return bytes(made)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm here")
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("target", TARGETS)
@trying(250)
@given(random=st.randoms(use_true_random=False))
def test_damaged_files_are_borne(
    target: str, random: Random, tally: Tallies, tmp_path: Path
) -> None:
    kept = seeds(target)
    data = damaged(random.choice(kept), random.choice(kept), random)
    tally(f"{target}, mutated")(outcome_of(TARGETS[target](data), tmp_path / "x.bin"))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm here")
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_kept_for_the_fuzzer_is_borne(target: str, tally: Tallies, tmp_path: Path) -> None:
    for data in seeds(target):
        tally(f"{target}, kept")(outcome_of(TARGETS[target](data), tmp_path / "x.bin"))


# Pickles, opcode by opcode


def opcodes_of(data: bytes) -> list[bytes]:
    starts = [at for _, _, at in pickletools.genops(data)]
    return [data[at:end] for at, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def pool() -> list[bytes]:
    """Opcodes of real pickles, and every opcode without an argument."""
    found = [
        code for target in ("pickle",) for data in seeds(target)[:6] for code in opcodes_of(data)
    ]
    bare = [op.code.encode("latin-1") for op in pickletools.opcodes if op.arg is None]
    return [*found, *bare, b"K\x05", b"K\x00", b"J\xff\xff\xff\xff", b"q\x00", b"h\x00"]


def rearranged(data: bytes, random: Random, spare: list[bytes]) -> bytes:
    codes = opcodes_of(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        at, other = random.randrange(len(codes)), random.randrange(len(codes))
        edit = random.randrange(5)
        if edit == 0:
            codes[at : at + 1] = []
        elif edit == 1:
            codes.insert(at, random.choice(spare))
        elif edit == 2:
            codes[at] = random.choice(spare)
        elif edit == 3:
            codes[at], codes[other] = codes[other], codes[at]
        else:
            codes[at:at] = codes[min(at, other) : max(at, other)][:20]
        codes = codes or [b"."]
    return b"".join(codes)


def real_files() -> list[bytes]:
    return [data for data in seeds("zip") if b"data.pkl" in data]


# Warnings of torch about what it reads are no errors here.
@pytest.mark.filterwarnings("ignore")
@trying(500)
@given(random=st.randoms(use_true_random=False))
def test_rearranged_pickles_are_read_as_torch_reads_them(
    random: Random, tally: Tallies, tmp_path: Path
) -> None:
    members = members_of(random.choice(real_files()))
    (name,) = (name for name in members if name.endswith("data.pkl"))
    members[name] = rearranged(members[name], random, pool())
    path = tmp_path / "x.pt"
    path.write_bytes(archive_of(members))
    tally("pickle opcodes, mutated, against torch")(agreement_with_torch(path))


@pytest.mark.filterwarnings("ignore")
@trying(200)
@given(random=st.randoms(use_true_random=False))
def test_damaged_zip_files_are_read_as_torch_reads_them(
    random: Random, tally: Tallies, tmp_path: Path
) -> None:
    data = bytearray(random.choice(real_files()))
    for _ in range(random.choice((1, 2))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    tally("zip, flipped bits, against torch")(agreement_with_torch(path))


# What ours refuses and torch opens, by our words for it, and why that stays.
REFUSED_THOUGH_TORCH_OPENS = {
    "disagrees with the directory": "torch reads past a damaged local header",
    "a damaged zip file": "torch reads past fields that it does not need",
    "a zip archive of": "a damaged name: torch takes any folder, and members without one",
    "damaged at byte": "opcodes that run, though no pickler writes them",
    "too short": "torch reads what lies behind a storage that was cut",
    "the file is damaged": "torch resizes a storage that a view leaves",
    "neither little nor big": "torch compares the byte order with its own only",
}


def agreement_with_torch(path: Path) -> str:
    """Equal tensors where both read the file; else who refused it."""
    try:
        theirs = torch.load(path, weights_only=True, map_location="cpu")
    except Exception:
        theirs = None
    said, states = reading(path)
    if theirs is None:
        return "refused by both" if said else "refused by torch alone"
    if said:
        assert any(words in said for words in REFUSED_THOUGH_TORCH_OPENS), said
        return "refused by us alone"
    for key in states:
        compare_state(path, key, theirs)
    return "read by both"


def reading(path: Path) -> tuple[str, list[str | None]]:
    """Why ours refuses the file (nothing where it does not), and the keys of its state dicts."""
    try:
        return "", [state.key for state in read_contents(path).state_dicts if state.places]
    except CheckpointError as error:
        return str(error), []


def compare_state(path: Path, key: str | None, theirs: Any) -> None:
    for step in [] if key is None else key.split("."):
        theirs = theirs[step] if isinstance(theirs, dict) and step in theirs else None
    if not isinstance(theirs, dict):
        return  # a whole module, which torch gives as an object
    try:
        checkpoint = open_checkpoint(path, key="." if key is None else key)
        ours = checkpoint.state_dict()
    except CheckpointError:
        return  # deflated bytes that do not inflate are told when they are read
    for name, value in ours.items():
        assert isinstance(theirs[name], torch.Tensor)
        assert (name, bits(theirs[name])) == (name, bits(value))
        assert theirs[name].shape == value.shape


# The safetensors header, edited as JSON

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 8, 16, 1 << 31, 1 << 63, 1 << 64, 1 << 70, 1.0, -0.0, 1e300,
    "", "F32", "F64", "U8", "BOOL", "F4", "F6_E2M3", "F8_E4M3", "C64", "Q4", "\ud800",
    "__metadata__",
    "dtype", "a", [], [0], [1], [0, 0], [0, 16], [16, 0], [2, 2], [1] * 70, {}, {"a": "b"},
]  # fmt: skip


HOSTILE_NAMES = [text for text in HOSTILE if isinstance(text, str)]


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(child, (*path, key))


def edited(header: Any, random: Random) -> Any:
    path = random.choice(list(paths_of(header)))
    if not path:
        return random.choice([header, *HOSTILE]) if random.random() < 0.1 else header
    parent = header
    for step in path[:-1]:
        parent = parent[step]
    edit = random.randrange(4)
    if edit == 0:
        del parent[path[-1]]
    elif edit == 1 and isinstance(parent, dict):
        parent[random.choice(HOSTILE_NAMES)] = parent[path[-1]]
    elif edit == 2 and isinstance(parent, list):
        parent.insert(path[-1], random.choice(HOSTILE))
    else:
        parent[path[-1]] = random.choice(HOSTILE)
    return header


def spelt(header: Any, random: Random) -> bytes:
    """JSON text, now and then with what JSON allows and no serialiser writes."""
    text = json.dumps(header, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    edit = random.randrange(12)
    if edit == 0:
        return text + random.choice((b"   ", b"\n", b"\t", b"\x00", b"}", b"{}", b"//"))
    if edit == 1:
        return random.choice((b" ", b"\n", b"\xef\xbb\xbf")) + text
    if edit == 2:
        return text.replace(b"0", random.choice((b"-0", b"00", b"0.0", b"0e0", b"+0")), 1)
    if edit == 3 and len(text) > 2:
        return text[:-1] + b"," + text[1:]  # every key twice
    if edit == 4:
        return text.replace(b":", b" : \n", 2)
    return text


# What ours refuses alone, by our words for it, and why that stays.
REFUSED_BY_US_ALONE = {
    "occurs twice": "the format forbids a key twice; the library takes the last one",
    "expected a JSON object": "the format wants { as the first byte; the library skips blanks",
    "expected dtype, shape and data_offsets": "the library ignores keys that it does not know",
    "is not a whole number": "the same: a number under such a key",
    "surrogates not allowed": "the same: text under such a key",
    "from 0 up": "a size of 2 ** 63 or more beside a 0, which no tensor of torch can have",
    "larger than any memory": "the same, as a product",
}
# What safetensors refuses alone, by what is in the header: to JSON, minus zero is zero.
REFUSED_BY_THEM_ALONE = (b"-0",)


@trying(800)
@given(random=st.randoms(use_true_random=False))
def test_edited_headers_are_read_as_safetensors_reads_them(
    random: Random, tally: Tallies, tmp_path: Path
) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header: Any = random.choice(
        [
            {"a": {**entry}, "b": {**entry, "shape": [2, 1], "data_offsets": [8, 16]}},
            {"a": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}},
            {
                "__metadata__": {"format": "pt"},
                "a": {**entry, "shape": [4], "data_offsets": [0, 16]},
            },
            {
                "a": {**entry, "shape": [4], "data_offsets": [0, 16]},
                "z": {**entry, "shape": [0], "data_offsets": [16, 16]},
            },
        ]
    )
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        header = edited(json.loads(json.dumps(header)), random)
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_of(spelt(header, random), bytes(range(16))))
    theirs, ours = try_both(path)
    if theirs and not ours:
        with pytest.raises(CheckpointError) as refused:
            open_checkpoint(path)
        assert any(words in str(refused.value) for words in REFUSED_BY_US_ALONE), refused.value
    if ours and not theirs:
        assert any(text in path.read_bytes() for text in REFUSED_BY_THEM_ALONE), path.read_bytes()
    words = {(True, True): "read by both", (False, False): "refused by both"}
    words |= {(True, False): "refused by us alone", (False, True): "refused by safetensors alone"}
    tally("safetensors header, edited, against safetensors")(words[theirs, ours])
