"""The pickle machine: right about what is known, inert about the rest, precise about damage."""

from __future__ import annotations

import argparse
import builtins
import collections
import os
import pickle
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.checkpoint.pickles.inert import Global, Opaque, Ordered
from surgery.checkpoint.pickles.reading import unpickle
from surgery.errors import CheckpointError


def load(data: bytes) -> Any:
    return unpickle(data, "x.pkl")[0]


# Numbers of more bits are values, but no keys: see as_key.
NUMBERS = st.integers(-(2**60) + 1, 2**60 - 1)
KEYS = st.text() | NUMBERS | st.none() | st.booleans() | st.tuples(st.text(), NUMBERS)
VALUES = st.recursive(
    KEYS
    | st.integers()
    | st.floats(allow_nan=False)
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(collections.OrderedDict)
        | st.sets(st.text(), max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5))
def test_plain_values_come_back_whatever_the_protocol(value: Any, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


@settings(max_examples=200, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5), data=st.data())
def test_a_damaged_pickle_gives_a_value_or_the_one_error(
    value: Any, protocol: int, data: st.DataObject
) -> None:
    stream = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    with suppress(CheckpointError):
        load(bytes(stream[:cut]))


@settings(max_examples=300, deadline=None)
@given(opcodes=st.binary(max_size=60))
def test_any_bytes_give_a_value_or_the_one_error(opcodes: bytes) -> None:
    with suppress(CheckpointError):
        load(opcodes)


class Shell:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


class Evaluation:
    def __reduce__(self) -> Any:
        return builtins.eval, ("(_ for _ in ()).throw(SystemExit('ran'))",)


class Newer:
    def __getnewargs_ex__(self) -> Any:
        return (1,), {"a": 2}

    def __new__(cls, *args: Any, **keywords: Any) -> Newer:
        return super().__new__(cls)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        pytest.param(Shell(), "posix.system", id="os.system"),
        pytest.param(Evaluation(), "builtins.eval", id="eval"),
    ],
)
@pytest.mark.parametrize("protocol", range(6))
def test_a_call_becomes_a_placeholder_and_its_name_is_listed(
    value: object, name: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps({"a": value, "b": 1}, protocol)
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("the pickle ran"))
    loaded, opaque, _ = unpickle(data, "x.pkl")
    assert loaded["b"] == 1
    assert isinstance(loaded["a"], Opaque)
    assert loaded["a"].name == name
    assert opaque == (name,)


@pytest.mark.parametrize("protocol", range(6))
def test_an_unknown_object_keeps_its_attributes(protocol: int) -> None:
    loaded = load(pickle.dumps(argparse.Namespace(lr=0.1, deep={"a": [1]}), protocol))
    assert loaded.name == "argparse.Namespace"
    assert loaded.attributes == {"lr": 0.1, "deep": {"a": [1]}}


def test_keyword_arguments_of_an_unknown_object_are_passed_over() -> None:
    assert load(pickle.dumps(Newer(), 4)).name.endswith("Newer")


def test_containers_of_unknown_classes_keep_what_they_hold() -> None:
    data = b"\x80\x02cfoo\nConfig\n)\x81(K\x01K\x02e(U\x01aK\x03u}U\x01xK\x04sb."
    loaded = load(data)
    assert (loaded.entries, loaded.attributes) == ({"a": 3}, {"x": 4})


def test_attributes_of_an_ordered_dict_are_kept() -> None:
    ordered = collections.OrderedDict(a=1)
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    loaded = load(pickle.dumps(ordered, 2))
    assert isinstance(loaded, Ordered)
    assert (loaded, loaded.attributes) == ({"a": 1}, {"_metadata": {"": {"version": 1}}})


@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(b"S'caf\\xe9\\n'\n.", "café\n", id="quoted-escapes"),
        pytest.param(b"S'\\101\\\\\\''\n.", "A\\'", id="quoted-octal-and-quotes"),
        pytest.param(b"U\x04caf\xe9.", "café", id="short-binstring-latin-1"),
        pytest.param(b"T\x04\x00\x00\x00caf\xe9.", "café", id="binstring-latin-1"),
        pytest.param(b"V\\u00e9\n.", "é", id="unicode-text"),
        pytest.param(b"I01\n.", True, id="text-true"),
        pytest.param(b"L12L\n.", 12, id="text-long"),
        pytest.param(b"F1.5\n.", 1.5, id="text-float"),
        pytest.param(b"(lp0\nI1\nag0\n0.", [1], id="text-memo-and-pop"),
        pytest.param(b"((1K\x07.", 7, id="pop-mark"),
        pytest.param(b"(U\x01aK\x01d.", {"a": 1}, id="dict"),
        pytest.param(b"c__builtin__\nset\n(]K\x01atR.", {1}, id="python-2-module-names"),
        pytest.param(b"ctorch\nfloat32\n.", Global("torch.float32"), id="dtype"),
        pytest.param(b"\x8f(K\x01K\x02\x90.", {1, 2}, id="add-items"),
        pytest.param(b"\x96\x02" + bytes(7) + b"ab.", b"ab", id="bytearray"),
    ],
)
def test_opcodes_of_every_age(data: bytes, value: object) -> None:
    assert load(data) == value


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "damaged at byte 0: no end of it; have 0 bytes", id="empty"),
        pytest.param(b"\x80\x02K", "byte 2: not enough data", id="cut"),
        pytest.param(
            b"J\x01\x02", "byte 0: not enough data in stream to read int4; have 3", id="cut-number"
        ),
        pytest.param(b"\x80\x09.", "byte 0: pickle protocol 9", id="protocol"),
        pytest.param(b"K\x01\xff.", "byte 2: opcode 0xff is not read", id="opcode"),
        pytest.param(b".", "byte 0: less on the stack", id="stop-on-nothing"),
        pytest.param(b"K\x01a.", "byte 2: less on the stack", id="append-to-nothing"),
        pytest.param(b"K\x01K\x02a.", "appending to a int", id="append-to-an-int"),
        pytest.param(b"K\x01K\x02K\x03s.", "setting a key of a int", id="key-of-an-int"),
        pytest.param(b"(K\x01d.", "a key without a value", id="odd-dict"),
        pytest.param(b"t.", "less on the stack", id="tuple-without-mark"),
        pytest.param(b"K\x01\x86.", "less on the stack", id="tuple2"),
        pytest.param(b"h\x05.", "less on the stack, or in the memo", id="memo"),
        pytest.param(b"X\xff\xff\xff\x7fab.", "expected 2147483647 bytes", id="long-text"),
        pytest.param(b"\x8d" + b"\xff" * 8 + b".", "18446744073709551615", id="long-text-8"),
        pytest.param(b"\x95" + b"\xff" * 8 + b".", "a frame of", id="frame"),
        pytest.param(b"X\x01\x00\x00\x00\xff.", "decode", id="not-utf-8"),
        pytest.param(b"I12a\n.", "invalid literal", id="not-a-number"),
        pytest.param(b"L" + b"9" * 5000 + b"\n.", "digits", id="number-too-long"),
        pytest.param(b"cmodule", "a line that does not end", id="line-of-a-global"),
        pytest.param(b"Np" + b"9" * 30 + b"\n.", "no pickler counts to", id="wide-memo-index"),
        pytest.param(b"S'a\n.", "quotes", id="unquoted"),
        pytest.param(b"S'\\d'\n.", "an escape that is not known", id="unknown-escape"),
        pytest.param(b"I12", "no newline found", id="line"),
        pytest.param(b"K\x01K\x02R.", "arguments that are not a tuple", id="reduce-args"),
        pytest.param(b"K\x01)R.", "a call of a int", id="reduce-int"),
        pytest.param(b"K\x01K\x02\x93.", "name is not text", id="stack-global"),
        pytest.param(b"(o.", "less on the stack", id="obj"),
        pytest.param(b"K\x01Q.", "outside the pickle", id="persistent"),
        pytest.param(b"\x97.", "opcode 0x97 is not read", id="buffer"),
    ],
)
def test_damage_is_named_with_its_byte(data: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=r"^x\.pkl: damaged at byte") as caught:
        load(data)
    assert problem in caught.value.message


def deep_key(depth: int) -> bytes:
    """A dictionary whose key is a tuple in a tuple in a tuple: hashing it would recurse in C."""
    return b"})" + b"\x85" * depth + b"K\x01s."


def copies(times: int) -> bytes:
    """A long list, copied by a five-byte line over and over."""
    return (
        b"]("
        + b"N" * 50_000
        + b"eq\x000cbuiltins\nlist\nq\x01"
        + b"0h\x01h\x00\x85R" * times
        + b"."
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"K\x01r\xff\xff\xff\xff.", id="memo-bomb"),
        pytest.param(b"]" + b"]" * 200_000 + b"a" * 200_000 + b".", id="deep-lists"),
        pytest.param(deep_key(200_000), id="deep-key"),
        pytest.param(b"(" * 200_000 + b"1" * 200_000 + b"N.", id="many-marks"),
        pytest.param(b"]" + b"2a" * 1000 + b".", id="a-list-in-itself"),
        pytest.param(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", id="allocation-by-call"),
    ],
)
def test_bombs_fizzle(data: bytes) -> None:
    load(data)


def test_copies_beyond_the_size_of_the_pickle_are_refused() -> None:
    load(copies(10))
    with pytest.raises(CheckpointError, match="far beyond its size"):
        load(copies(100_000))


def test_a_long_tuple_of_arguments_is_not_looked_through_again_and_again() -> None:
    arguments = b"cbuiltins\nbytes\nq\x00(" + b"N" * 100_000 + b"tq\x01"
    load(arguments + b"h\x00h\x01R0" * 10 + b"N.")
    with pytest.raises(CheckpointError, match="far beyond its size"):
        load(arguments + b"h\x00h\x01R0" * 100_000 + b"N.")


def test_numbers_are_signed_where_pickle_says_so() -> None:
    assert load(b"J" + struct.pack("<i", -5) + b".") == -5
    assert load(b"\x8a\x01\xff.") == -1
