"""The pickle that is written means what torch's own means."""

import io
import pickletools
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.pickles.pickler import StoredTensor, Unpicklable, pickled
from surgery.checkpoint.writer import save

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


def stored(value):
    return value if isinstance(value, StoredTensor) else None


def unpickle(text):
    """With torch's restricted unpickler, which is what files are read with."""
    from torch._weights_only_unpickler import Unpickler

    machine = Unpickler(io.BytesIO(text), encoding="utf-8")
    machine.persistent_load = lambda identity: torch.storage.TypedStorage(
        wrap_storage=torch.UntypedStorage(bytes(range(64))), dtype=torch.uint8, _internal=True
    )
    return machine.load()


def kinds(value):
    """The value with the types of all parts."""
    match value:
        case dict():
            return type(value), [(kinds(key), kinds(each)) for key, each in value.items()]
        case list() | tuple():
            return type(value), [kinds(each) for each in value]
        case _:
            return type(value), repr(value)


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_plain_values_come_back(state):
    text = pickled(state, {}, stored)
    assert kinds(unpickle(text)) == kinds(OrderedDict(state))
    pickletools.dis(text, out=io.StringIO())


@pytest.mark.parametrize(
    "number", [0, 255, 256, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**2039 - 1, -(2**2038)]
)
def test_integers_at_the_limits_of_their_opcodes(number):
    assert unpickle(pickled({"n": number}, {}, stored)) == {"n": number}


def test_not_a_number_and_infinities():
    back = unpickle(pickled({"n": [float("nan"), float("-inf"), -0.0]}, {}, stored))
    assert repr(back["n"]) == "[nan, -inf, -0.0]"


def test_attributes():
    back = unpickle(pickled({"a": 1}, {"_metadata": OrderedDict(x={"version": 2})}, stored))
    assert (back, back._metadata) == ({"a": 1}, {"x": {"version": 2}})


class Text(str):
    pass


class Number(int):
    pass


class Mapping(OrderedDict):
    pass


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(Number(3), "Number, which is neither", id="int-subclass"),
        pytest.param(Mapping(), "Mapping, which is neither", id="mapping-subclass"),
        pytest.param({"a": [object()]}, "a builtins.object, which is neither", id="object"),
        pytest.param({1, 2}, "a builtins.set", id="set"),
        pytest.param(2**2039, "an integer of 2,040 bits", id="huge"),
        pytest.param(deep(100_000), "nested too deep", id="deep"),
        pytest.param(endless(), "nested too deep", id="endless"),
    ],
)
def test_what_cannot_be_written_is_named(value, message):
    with pytest.raises(Unpicklable, match=message):
        pickled({"x": value}, {}, stored)


def test_text_of_a_subclass_is_text():
    assert kinds(unpickle(pickled({Text("a"): Text("b")}, {}, stored))) == kinds(OrderedDict(a="b"))


def calls(text):
    """The opcodes without positions and without the memo, whose use is anybody's choice."""
    memo = {"BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
    found = pickletools.genops(text)
    return [(op.name, arg) for op, arg, _ in found if op.name not in memo]


@pytest.mark.parametrize(
    "dtype",
    [
        *("float64", "float32", "float16", "bfloat16", "int64", "int32"),
        *("int16", "int8", "uint8", "bool", "complex64", "complex128"),
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
    ],
)
def test_a_tensor_is_the_call_that_torch_writes(dtype, tmp_path):
    """Globals, in their order, are torch's."""
    state = OrderedDict(a=torch.zeros((2, 3), dtype=getattr(torch, dtype)))
    torch.save(state, tmp_path / "torch.pt")
    save(state, tmp_path / "ours.pt")
    named = []
    for file in ("torch", "ours"):
        with zipfile.ZipFile(tmp_path / f"{file}.pt") as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
            named.append([arg for op, arg in calls(archive.read(name)) if op == "GLOBAL"])
    assert list(dict.fromkeys(named[0])) == list(dict.fromkeys(named[1]))
