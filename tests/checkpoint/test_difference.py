import io
import json
import math
import subprocess
import sys
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import TinyNet, randomise

from surgery.checkpoint import open_checkpoint, pieces
from surgery.checkpoint.difference import ValueDifference, compare
from surgery.checkpoint.source import Reader
from surgery.checkpoint.tensors import differing
from surgery.checkpoint.tensors.memory import Tensors
from surgery.checkpoint.writer import save
from surgery.errors import CheckpointError

modest = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[16, 1 << 17], ids=lambda size: f"pieces-of-{size}")
def piece(request, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", request.param)
    monkeypatch.setattr(differing, "PART", request.param)
    return request.param


def difference(one, other):
    return compare(Tensors(one), Tensors(other))


def test_the_same_is_false():
    state = randomise(TinyNet()).state_dict()
    found = difference(state, dict(state))
    assert not found
    assert found.equal == tuple(state)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param("module.", "", id="first"),
        pytest.param("", "_orig_mod.module.", id="second"),
        pytest.param("module.", "_orig_mod.", id="both"),
    ],
)
def test_wrappers_are_looked_through(ours, theirs):
    one = {f"{ours}fc.{name}": torch.ones(2) for name in ("weight", "bias", "extra")}
    other = {f"{theirs}fc.{name}": torch.ones(2) for name in ("weight", "bias", "more")}
    other[f"{theirs}fc.bias"] = torch.zeros(2)
    found = difference(one, other)
    assert found.equal == (f"{ours}fc.weight",)
    assert [value.name for value in found.values] == [f"{ours}fc.bias"]
    assert [spec.name for spec in found.only_first] == [f"{ours}fc.extra"]
    assert [spec.name for spec in found.only_second] == [f"{theirs}fc.more"]
    assert found.wrapped == tuple(
        (f"{ours}fc.{name}", f"{theirs}fc.{name}") for name in ("weight", "bias")
    )


def test_a_network_that_has_a_submodule_called_module_is_not_merged():
    both = {"module.w": torch.ones(2), "w": torch.zeros(2)}
    found = difference(both, dict(both))
    assert (found.equal, found.wrapped) == (("module.w", "w"), ())
    assert [spec.name for spec in difference(both, {"w": both["w"]}).only_first] == ["module.w"]


def test_a_wrapped_tensor_of_another_dtype():
    found = difference({"module.w": torch.ones(2)}, {"w": torch.ones(2).half()})
    assert [(one.name, other.name) for one, other in found.respecified] == [("module.w", "w")]


@pytest.mark.parametrize(
    ("one", "other", "elements", "largest", "relative"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.5], 1, 0.5, 0.2, id="one-element"),
        pytest.param([0.0, 0.0], [0.0, 3.0], 1, 3.0, 1.0, id="fresh-zeros"),
        pytest.param([-2.0, 1.0], [2.0, 1.0], 1, 4.0, 2.0, id="another-sign"),
        pytest.param([math.inf, 4.0], [1.0, 2.0], 2, math.inf, math.inf, id="infinite-once"),
        pytest.param(
            [math.inf, 4.0], [math.inf, 2.0], 1, 2.0, 0.5, id="equal-infinities-do-not-count"
        ),
        pytest.param([math.inf], [-math.inf], 1, math.inf, math.inf, id="infinities-apart"),
        pytest.param([math.nan], [1.0], 1, math.inf, math.inf, id="nothing-finite"),
    ],
)
def test_values(one, other, elements, largest, relative):
    (found,) = difference({"x": torch.tensor(one)}, {"x": torch.tensor(other)}).values
    assert (found.elements, found.largest, found.relative) == (elements, largest, relative)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([math.nan], [math.nan], id="nan"),
        pytest.param([0.0], [-0.0], id="zeros"),
        pytest.param([], [], id="empty"),
    ],
)
def test_what_counts_as_equal(one, other):
    assert not difference({"x": torch.tensor(one)}, {"x": torch.tensor(other)})


def test_what_cannot_be_read_cannot_agree():
    state = {"a": torch.zeros(2), "b": torch.eye(2).to_sparse()}
    found = difference(state, state)
    assert found
    assert found.incomparable == (("b", "a tensor of layout sparse_coo"),)
    assert "cannot be compared" in str(found)


def test_what_one_side_alone_can_read_is_not_missing_on_the_other():
    found = difference({"a": torch.eye(2)}, {"a": torch.eye(2).to_sparse()})
    assert found.incomparable == (("a", "a tensor of layout sparse_coo"),)
    assert found.only_first == found.only_second == ()


def test_entries_that_are_no_tensors_are_said_and_are_no_difference():
    found = difference({"a": torch.zeros(2), "epoch": 3}, {"a": torch.zeros(2)})
    assert not found
    assert "epoch is no tensor and was not compared" in str(found)


def test_names_shapes_and_dtypes():
    one = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    other = {"b": torch.zeros(3), "c": torch.zeros(2).half(), "d": torch.zeros(1)}
    found = difference(one, other)
    assert [spec.name for spec in found.only_first] == ["a"]
    assert [spec.name for spec in found.only_second] == ["d"]
    assert [pair[0].name for pair in found.respecified] == ["b", "c"]
    assert str(found).startswith(
        "the first and the second: 2 tensors in both, 0 equal, 0 with other values, "
        "2 of another shape or dtype; 1 only in the first; 1 only in the second\n"
    )


def test_json_has_no_infinity():
    found = difference({"x": torch.tensor([math.inf])}, {"x": torch.tensor([1.0])})
    (value,) = found.to_dict()["values"]
    assert (value["name"], value["largest"], value["relative"]) == ("x", None, None)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
)
def test_8_bit_floats(dtype):
    one, other = torch.tensor([1.0, 2.0]).to(dtype), torch.tensor([1.0, 4.0]).to(dtype)
    (found,) = difference({"x": one}, {"x": other}).values
    assert (found.elements, found.total, found.largest, found.relative) == (1, 2, 2.0, 0.5)


def test_4_bit_floats_are_compared_one_by_one():
    # 0x72 is the pair (1.0, 6.0), 0xFA is (-1.0, -6.0), 0x7A is (-1.0, 6.0).
    one, other, half = (
        torch.tensor([pair], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        for pair in (0x72, 0xFA, 0x7A)
    )
    (both,) = difference({"x": one}, {"x": other}).values
    assert (both.elements, both.largest, both.relative) == (2, 12.0, 2.0)
    (single,) = difference({"x": one}, {"x": half}).values
    assert (single.elements, single.largest) == (1, 2.0)
    assert not difference({"x": one}, {"x": one.clone()})


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.bfloat16])
def test_every_kind_of_number(dtype):
    one, other = torch.tensor([0, 1]).to(dtype), torch.tensor([1, 1]).to(dtype)
    (found,) = difference({"x": one}, {"x": other}).values
    assert (found.elements, found.largest) == (1, 1.0)


def plainly(one, other):
    """What a page of torch says of two tensors, in float64 and all at once."""
    a, b = (v.to(torch.complex128 if v.is_complex() else torch.float64) for v in (one, other))
    differs = ~((a == b) | (a.isnan() & b.isnan()))
    both = a.isfinite() & b.isfinite()
    if not differs.any():
        return None
    if (differs & ~both).any():
        return int(differs.sum()), one.numel(), math.inf, math.inf
    largest = float((a - b)[both].abs().max())
    scale = max(float(a[both].abs().max()), float(b[both].abs().max()))
    return int(differs.sum()), one.numel(), largest, largest / scale


def told(found):
    if not found:
        return None
    (value,) = found.values
    return value.elements, value.total, value.largest, value.relative


NUMBERS = [0.0, -0.0, 1.0, -1.5, 3.0, 0.1, 1e-3, 40.0, math.inf, -math.inf, math.nan]


@modest
@given(data=st.data())
@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"],
)
@pytest.mark.parametrize("suffixes", [(".pt", ".safetensors"), (".safetensors", ".safetensors")])
def test_values_are_torchs(dtype, suffixes, data, tmp_path, piece):
    kind = getattr(torch, dtype)
    count = data.draw(st.integers(1, 40))
    row = data.draw(st.lists(st.sampled_from(NUMBERS), min_size=count, max_size=count))
    one = torch.tensor(row).to(kind)
    other = one.clone()
    for at in data.draw(st.lists(st.integers(0, count - 1), max_size=4)):
        other[at] = data.draw(st.sampled_from(NUMBERS))
    paths = [tmp_path / f"{side}{suffix}" for side, suffix in zip("ab", suffixes, strict=True)]
    for path, value in zip(paths, (one, other), strict=True):
        save({"x": value}, path)
    in_files = compare(*map(open_checkpoint, paths))
    assert told(in_files) == plainly(one, other)
    assert in_files == compare(Tensors({"x": one}), Tensors({"x": other}))


def spread(value):
    """The same numbers with a gap behind each."""
    return torch.stack([value, value + 7], -1)[..., 0]


LAYOUTS = {
    "rows": lambda value: value,
    "columns": lambda value: value.t().contiguous().t(),
    "gaps": spread,
    "further-on": lambda value: torch.cat([value + 7, value])[len(value) :],
}


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_the_layout_in_the_file_says_nothing(first, second, tmp_path, piece):
    value = torch.arange(54.0).view(6, 9)
    changed = value.clone()
    changed[5, 8] += 1
    changed[0, 3] -= 2
    torch.save({"x": LAYOUTS[first](value)}, tmp_path / "a.pt")
    torch.save({"x": LAYOUTS[second](value)}, tmp_path / "b.pt")
    torch.save({"x": LAYOUTS[second](changed)}, tmp_path / "c.pt")
    one, same, other = (open_checkpoint(tmp_path / f"{name}.pt") for name in "abc")
    assert not compare(one, same)
    assert told(compare(one, other)) == plainly(value, changed)


def rewritten(path, change=lambda _, data: data, **how):
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    target = path.with_name(f"rewritten-{path.name}")
    with zipfile.ZipFile(target, "w", **how) as new:
        for name, data in members:
            new.writestr(name, change(name, data))
    return open_checkpoint(target)


def big_endian(name, data):
    if name.endswith("/byteorder"):
        return b"big"
    if "/data/" not in name:
        return data
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


def test_byte_order_and_compression_say_nothing(tmp_path, piece):
    state = {"a": torch.randn(5000), "b": torch.randn(7)}
    other = {"a": state["a"].clone(), "b": state["b"]}
    other["a"][4321] = 99.0
    torch.save(state, tmp_path / "a.pt")
    torch.save(other, tmp_path / "b.pt")
    plain = open_checkpoint(tmp_path / "a.pt")
    for how in ({"change": big_endian}, {"compression": zipfile.ZIP_DEFLATED}):
        assert not compare(plain, rewritten(tmp_path / "a.pt", **how))
        found = compare(rewritten(tmp_path / "a.pt", **how), rewritten(tmp_path / "b.pt", **how))
        assert told(found) == plainly(state["a"], other["a"])


def test_the_same_bytes_in_another_order_are_other_numbers(tmp_path):
    torch.save({"a": torch.tensor([1.0, 2.0])}, tmp_path / "a.pt")
    other = rewritten(tmp_path / "a.pt", lambda n, d: b"big" if n.endswith("byteorder") else d)
    assert told(compare(open_checkpoint(tmp_path / "a.pt"), other))[0] == 2


@pytest.mark.parametrize("kind", [torch.uint64, torch.int64])
def test_whole_numbers_that_float64_cannot_tell_apart_differ(kind):
    one, other = (torch.tensor([2**60 + more], dtype=torch.int64).to(kind) for more in (0, 1))
    (found,) = difference({"x": one}, {"x": other}).values
    assert (found.elements, found.largest) == (1, 0.0)


def test_equal_files_need_no_torch(tmp_path):
    model = randomise(TinyNet())
    save(model, tmp_path / "a.pt")
    save(model, tmp_path / "b.safetensors")
    code = (
        "import sys; from surgery.checkpoint import open_checkpoint\n"
        "from surgery.checkpoint.difference import compare\n"
        "found = compare(*map(open_checkpoint, sys.argv[1:])); str(found)\n"
        "assert len(found.equal) == 29 and 'torch' not in sys.modules"
    )
    paths = [str(tmp_path / name) for name in ("a.pt", "b.safetensors")]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *paths], check=True)


def test_no_more_than_a_piece_is_read_at_once(tmp_path, monkeypatch):
    one, other = torch.randn(200_000), torch.randn(200_000)
    save({"x": one, "same": one}, tmp_path / "a.pt")
    save({"x": other, "same": one}, tmp_path / "b.safetensors")
    files = [open_checkpoint(tmp_path / name) for name in ("a.pt", "b.safetensors")]
    asked, read = [], Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, start, count: asked.append(count) or read(self, start, count)
    )
    done = []
    assert told(compare(*files, progress=done.append)) == plainly(one, other)
    assert max(asked) <= pieces.PIECE
    assert sum(done) == 1_600_000


def test_progress_counts_every_byte_once(tmp_path, piece):
    one = torch.zeros(100)
    late = one.clone()
    late[77] = 1
    states = ({"a": one, "b": one[:3], "c": one.t()}, {"a": late, "b": one[:3].clone(), "c": late})
    for name, state in zip("ab", states, strict=True):
        torch.save(state, tmp_path / name)
    for sources in (map(Tensors, states), (open_checkpoint(tmp_path / name) for name in "ab")):
        done = []
        compare(*sources, progress=done.append)
        assert sum(done) == 812


def test_sets_of_more_shards_than_a_process_may_open(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one = {str(i): torch.full((4,), float(i)) for i in range(60)}
    sides = [
        open_checkpoint(save(state, tmp_path / f"{side}.safetensors", max_shard_size=16))
        for side, state in {"a": one, "b": {**one, "7": torch.zeros(4)}}.items()
    ]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
    try:
        found = compare(*sides)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [value.name for value in found.values] == ["7"]
    assert len(found.equal) == 59


def test_a_file_that_changes_while_it_is_compared(tmp_path):
    state = {"a": torch.zeros(9), "b": torch.zeros(9)}
    save(state, tmp_path / "a.safetensors")
    save(state, tmp_path / "b.safetensors")
    files = [open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"]

    def meddle(_):
        (tmp_path / "b.safetensors").write_bytes(b"something else")

    with pytest.raises(CheckpointError, match="changed since it was opened|cut short|became"):
        compare(*files, progress=meddle)


class TestReport:
    def layers(self, changes):
        names = [f"blocks.{i}.{leaf}" for i in range(12) for leaf in ("weight", "bias", "steps")]
        one = {
            name: torch.tensor([3, 4]) if name.endswith("steps") else torch.tensor([1.0, 2.0])
            for name in [*names, "head.weight"]
        }
        other = {name: value.clone() for name, value in one.items()}
        for name, change in changes.items():
            other[name][1] += change
        return str(difference(one, other))

    def rows(self, text):
        return [line.split() for line in text.splitlines()]

    def test_layers_are_folded_and_the_worst_is_named(self):
        changes = {f"blocks.{i}.weight": 0.25 for i in range(12)} | {"blocks.7.weight": 2.0}
        text = self.layers(changes)
        row = ["blocks.{0..11}.weight", "12", "12", "24", "2", "0.5", "blocks.7"]
        assert row in self.rows(text)
        assert "the largest difference is 2 in blocks.7.weight" in text

    def test_weights_and_biases_are_told_apart(self):
        rows = self.rows(self.layers({"blocks.0.weight": 2.0, "blocks.0.bias": 0.5}))
        assert ["blocks.0.weight", "1", "1", "2", "2", "0.5"] in rows
        assert ["blocks.0.bias", "1", "1", "2", "0.5", "0.2"] in rows

    def test_counters_do_not_hide_the_weights(self):
        text = self.layers({"blocks.0.steps": 1000, "blocks.3.bias": 2.0})
        assert "the largest difference of floating numbers is 2 in blocks.3.bias" in text
        assert "1e+03" in text
        only = self.layers({"blocks.0.steps": 1000})
        assert "the largest difference is 1e+03 in blocks.0.steps" in only

    def test_what_did_not_move_is_listed_beside_what_did(self):
        rows = self.rows(self.layers({"head.weight": 1.0}))
        assert ["blocks.{0..11}.{weight,bias,steps}", "36"] in rows
        assert "36 equal, 1 with other values" in self.layers({"head.weight": 1.0})

    def test_equal_ones_are_a_line(self):
        assert len(self.layers({}).splitlines()) == 1

    def test_names_are_printed_as_text(self):
        value = {"\x1b[31m.0.w": torch.zeros(1), "\x1b[31m.1.w": torch.zeros(1)}
        text = str(difference(value, {name: torch.ones(1) for name in value}))
        assert "\x1b" not in text
        assert r"\x1b[31m.{0,1}.w" in text


def test_a_difference_is_plain_data():
    found = difference({"x": torch.tensor([2.0, 4.0])}, {"x": torch.tensor([2.0, 5.0])})
    assert found.values == (ValueDifference("x", "float32", 1, 2, 1.0, 0.2),)
    assert found.to_dict()["values"] == [
        {
            "name": "x",
            "dtype": "float32",
            "elements": 1,
            "total": 2,
            "largest": 1.0,
            "relative": 0.2,
        }
    ]
