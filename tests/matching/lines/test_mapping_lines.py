import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import MappingError
from surgery.matching.lines.given import Renamed, given_by
from surgery.matching.lines.mapping import parse_mapping, read_mapping
from surgery.matching.lines.renames import applied
from surgery.specs import ModelSpec, SourceSpec, TensorSpec


def apply(text, *names):
    """New names with their lines; every problem is raised."""
    mapping = parse_mapping(text, "map.txt")
    renamed, problems = applied(mapping.renames, names)
    if problems:
        raise MappingError(mapping.path, problems)
    return renamed


def rename(text, *names):
    return [new for new, _ in apply(text, *names).values()]


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param("encoder -> backbone", "encoder.a.w", "backbone.a.w", id="first-segment"),
        pytest.param("attn -> attention", "b.0.attn.w", "b.0.attention.w", id="middle-segment"),
        pytest.param("a.b -> c", "x.a.b.w", "x.c.w", id="several-segments"),
        pytest.param("model -> ", "model.a.w", "a.w", id="an-emptied-segment-takes-its-dot"),
        pytest.param("a -> x.y", "a.w", "x.y.w", id="one-to-several"),
        pytest.param(
            "layers.*.attn -> blocks.*.mha", "layers.3.attn.w", "blocks.3.mha.w", id="glob"
        ),
        pytest.param(r"^blocks_(\d+) -> blocks.\1", "blocks_12.w", "blocks.12.w", id="regex"),
        pytest.param(r"^model\. -> ", "model.a.w", "a.w", id="regex-that-eats-the-dot"),
        pytest.param(r"\.gamma$ -> .weight", "ln.gamma", "ln.weight", id="regex-from-the-dot"),
        pytest.param("a -> x\nw -> y", "a.b.w", "x.b.y", id="two-lines-on-one-name"),
        pytest.param("a.b -> x\nb -> y", "a.b.b", "x.y", id="the-earlier-line-has-the-text"),
        pytest.param("a -> b  # why", "a.w", "b.w", id="trailing-comment"),
        pytest.param("/a->#b/ -> c  # why", "a->#b.w", "c.w", id="both-in-a-regex"),
        pytest.param("a.**.b -> x.**.y", "a.b", "x.y", id="no-segments-leave-no-empty-one"),
        pytest.param("^a$ -> my name", "a", "my name", id="to-a-name-with-a-space"),
        pytest.param("my name -> a", "my name", "a", id="from-a-name-with-a-space"),
        pytest.param("fc -> head", "module.fc.w", "module.head.w", id="below-a-wrapper"),
        pytest.param(r"^fc\. -> head.", "module.fc.w", "head.w", id="anchored-below-a-wrapper"),
    ],
)
def test_rename(text, name, expected):
    assert rename(text, name) == [expected]


@given(st.text(alphabet="ab1.*?[]!/\\(|){}+^$<># ->\n", max_size=30), st.text(alphabet="ab.*#->"))
def test_any_text_is_read_or_refused_by_line(text, name):
    with suppress(MappingError):
        apply(text, name, "a.b", "")


def test_whole_segments_only():
    assert rename("mlp -> ffn", "mlp.0.w", "cpb_mlp.0.w") == ["ffn.0.w", "cpb_mlp.0.w"]
    assert rename("layer1 -> stage1", "layer1.w", "layer10.w") == ["stage1.w", "layer10.w"]


def test_two_lines_can_swap_two_names():
    assert rename("a -> b\nb -> a", "a.w", "b.w") == ["b.w", "a.w"]


def test_the_lines_behind_a_name_are_known():
    renamed = apply("# first\na -> x\n\nw -> y", "a.w", "b.w", "c")
    assert renamed == {"a.w": ("x.y", (2, 4)), "b.w": ("b.y", (4,)), "c": ("c", ())}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("a b", 1, "expected 'pattern -> replacement', found 'a b'", id="no-arrow"),
        pytest.param("a = add(b, c)", 1, "did you mean 'add(b, c) -> a'?", id="an-assignment"),
        pytest.param(
            "a = scal(b, 2)", 1, "no recipe 'scal'; did you mean scale?", id="a-misspelt-assignment"
        ),
        pytest.param("\n-> b", 2, "nothing stands before '->'", id="no-pattern"),
        pytest.param("a -> b\n(a -> b", 2, "missing ) at position 2", id="bad-regex"),
        pytest.param(r"(a) -> \2", 1, "invalid group reference 2", id="bad-group"),
        pytest.param("a.* -> b", 1, "has 1 '*' and its replacement 0", id="star-lost"),
        pytest.param("(?i)a( -> b", 1, "missing ) at position 6", id="position-in-the-text"),
        pytest.param("(" * 5000 + " -> b", 1, "brackets within one another", id="5000-brackets"),
        pytest.param("[" * 5000 + " -> b", 1, "hold a set", id="5000-square-brackets"),
        pytest.param("a\0 -> b", 1, "at position 1", id="nul"),
        pytest.param("a -> \ud800", 1, "at position 0", id="half-a-character"),
        pytest.param("\ufeffa -> b", 1, "at position 0", id="byte-order-mark"),
    ],
)
def test_lines_that_cannot_be_read(text, line, message):
    with pytest.raises(MappingError) as caught:
        parse_mapping(text, "map.txt")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"map.txt:{line}: ")
    assert message in str(caught.value)


def test_every_unreadable_line_is_named_at_once():
    with pytest.raises(MappingError) as caught:
        parse_mapping("a\nb -> c\nd", "map.txt")
    assert [problem.line for problem in caught.value.problems] == [1, 3]


def test_a_line_that_matches_nothing_is_an_error_with_the_nearest_name():
    with pytest.raises(
        MappingError, match=r"map\.txt:2: 'layr1' .* matches none of the 2 source"
    ) as e:
        apply("fc -> head\nlayr1 -> x", "fc.w", "layer1.w")
    assert "did you mean layer1?" in str(e.value)


def test_a_line_that_an_earlier_one_leaves_nothing_is_an_error():
    with pytest.raises(MappingError, match="only what an earlier line has renamed"):
        apply("a.b -> x\nb -> y", "a.b.w")


def test_mappings_come_from_a_path_text_or_mapping(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("a -> b\n")
    for form in (path, str(path), "a -> b", {"a": "b"}):
        mapping = read_mapping(form)
        assert [(r.left.text, r.right) for r in mapping.renames.values()] == [("a", "b")]
    assert read_mapping(None) is None


@pytest.mark.parametrize("mapping", [{"a": None}, {1: "b"}, {b"a": "b"}, {"a": ["b"]}, 5, b"a"])
def test_both_sides_of_a_mapping_from_python_are_texts(mapping):
    with pytest.raises(MappingError, match="expected a") as caught:
        read_mapping(mapping)
    assert not caught.value.details


def test_an_empty_name_is_a_name():
    assert rename("a -> b", "", "a.w") == ["", "b.w"]
    empty, other = (TensorSpec(name, (2,), "float32") for name in ("", "a.w"))
    given = given_by(parse_mapping("a -> b"), SourceSpec((empty, other)), ModelSpec((), ()))
    assert given.sources == {"": Renamed(empty), "b.w": Renamed(other, (1,))}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (5, "found 5"),
        (b"a -> b", "found b'a -> b'"),
        (["a -> b"], "found ['a -> b']"),
        ({1: 2}, "found (1, 2)"),
        ({"a": None}, "found ('a', None)"),
        ({"b": "c", None: "a"}, "<mapping>:2: "),
        ("a\nb", "expected 'pattern -> replacement', found 'a'"),
    ],
)
def test_what_is_no_mapping_of_names(given, why):
    with pytest.raises(MappingError) as caught:
        read_mapping(given)
    assert why in str(caught.value)


def test_a_line_that_takes_too_long_is_named():
    with pytest.raises(MappingError, match=r"map\.txt:2: .*\(a\|aa\).* stuck on 'aaa"):
        apply("b -> c\n/(a|aa)+$/ -> x", "b", "a" * 600 + "b")


@pytest.mark.parametrize(
    "line", ["layer{}.w -> x{}", "layer{}.* -> x{}.*", r"^layer{}\.w -> x{}", "layer{}"]
)
def test_very_many_lines_that_match_nothing(line):
    text = "\n".join(line.format(at, at) for at in range(100_000))
    started = time.process_time()
    with pytest.raises(MappingError) as caught:
        apply(text, *(f"layers.{at}.w" for at in range(200)))
    assert time.process_time() - started < 20
    assert len(caught.value.problems) == 100_000
    assert len(str(caught.value).splitlines()) == 101


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["absent", "not-text"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "map.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MappingError, match=r"map\.txt: cannot be read: "):
        read_mapping(path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("aux -> (unused)", ["aux.w", "a.aux.b"], id="a-segment-anywhere"),
        pytest.param("head.* -> (unused)", ["head.0.w"], id="a-glob"),
        pytest.param(r"^aux\. -> (unused)", ["aux.w"], id="a-regex"),
        pytest.param("aux -> (unused)", ["module.aux.w"], id="below-a-wrapper"),
        pytest.param(r"^aux -> (unused)", ["module.aux.w"], id="anchored-below-a-wrapper"),
        pytest.param("a.w -> ", ["a.w"], id="nothing-is-left-of-the-name"),
    ],
)
def test_what_is_left_out_has_no_new_name(text, names):
    assert rename(text, *names, "other.w") == [*[""] * len(names), "other.w"]


def test_the_earlier_line_has_the_text_of_what_a_later_one_would_leave_out():
    assert rename("fc.b -> head.b\nfc -> (unused)", "fc.w", "fc.b") == ["", "head.b"]
    with pytest.raises(MappingError, match="'fc.w' .* only what an earlier line has renamed"):
        rename("fc -> head\nfc.w -> (unused)", "fc.w")


def test_an_anchored_and_a_free_line_both_reach_below_a_wrapper():
    text = r"^layers\.0 -> blocks.1" + "\nln -> norm"
    assert rename(text, "module.layers.0.ln.w") == ["blocks.1.norm.w"]


def test_a_line_for_each_of_many_layers_reaches_only_its_own():
    names = [f"layers.{at}.w" for at in range(300)]
    text = "\n".join(f"layers.{at} -> blocks.{at + 1}" for at in range(300))
    assert rename(text, *names) == [f"blocks.{at + 1}.w" for at in range(300)]
