import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.report.tables import LONGEST_NAME, Column, Report, Table

NAME, WHY = Column("tensor"), Column("why")
COUNT, SPARE = Column("count", number=True), Column("bytes", number=True, spare=True)


def report(columns, *rows):
    return Report(("all",), (Table("loaded", tuple(columns), tuple(rows)),))


def table_lines(report, width=None):
    """Below the title: the header and the rows."""
    return report.text(width).splitlines()[3:]


def test_columns_are_aligned_and_numbers_set_to_the_right():
    shown = report([NAME, COUNT], ("fc.weight", "1"), ("conv1.w", "1,024"))
    assert shown.text().splitlines() == [
        "all",
        "",
        "loaded",
        "  tensor     count",
        "  fc.weight      1",
        "  conv1.w    1,024",
    ]


def test_a_table_without_rows_is_left_out_and_notes_come_last():
    shown = Report(("one", "two"), (Table("empty", (NAME,), ()),), ("mind",))
    assert shown.text() == "one\ntwo\n\nnote: mind"


def test_a_hundred_notes_are_listed_and_the_rest_counted():
    text = Report((), (), tuple(f"the cast broke 1 values of w{n}" for n in range(4000))).text()
    assert text.splitlines()[99:] == [
        "note: the cast broke 1 values of w99",
        "... and 3,900 more",
    ]


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        pytest.param("layer1.bn1.weight", 24, ["layer1.bn1.weight"], id="fits"),
        pytest.param(
            "layer1.bn1.{weight,bias,running_mean}",
            24,
            ["layer1.bn1.{weight,", "  bias,running_mean}"],
            id="behind-commas",
        ),
        pytest.param(
            "backbone.encoder.layer1.weight",
            24,
            ["backbone.encoder.", "  layer1.weight"],
            id="behind-dots",
        ),
        pytest.param("a" * 30, 24, ["a" * 10 + "..." + "a" * 9], id="nowhere-so-cut"),
        pytest.param(
            "differs: (10, 2048), not (1000, 2048)",
            24,
            ["differs: (10, 2048),", "  not (1000, 2048)"],
            id="a-shape-stays-whole",
        ),
        pytest.param("x" * 161, None, ["x" * 79 + "..." + "x" * 78], id="long-in-a-pipe"),
        pytest.param("a b " * 50, None, ["a b " * 49 + "a b"], id="prose-is-whole-in-a-pipe"),
        pytest.param("层一.权重", None, ["层一.权重"], id="another-script"),
        pytest.param(
            "\x1b[31m\x07\ud800\u202e", None, [r"\x1b[31m\x07\ud800\u202e"], id="control-characters"
        ),
    ],
)
def test_a_cell(name, width, lines):
    (_, *shown) = table_lines(report([NAME], (name,)), width)
    assert [line.removeprefix("  ") for line in shown] == lines


def test_columns_stay_aligned_beside_characters_of_two_places():
    _, first, second = table_lines(report([NAME, COUNT], ("权重", "1"), ("bias", "22")))
    assert first == "  权重        1"
    assert second == "  bias       22"


@pytest.mark.parametrize("width", [None, 80])
def test_a_name_of_a_megabyte_fills_nothing(width):
    name = "first." + "x" * 1_000_000 + ".last"
    shown = report([NAME, COUNT], (name, "1"), ("fc.weight", "2"))
    assert len(shown.text(width)) < 1000
    row = "".join(table_lines(shown, width)[1:-1]).replace(" ", "")
    assert row.startswith("first.")
    assert row.removesuffix("1").endswith(".last")
    assert len(Report((name,), (), (name,)).text(width)) < 2000


def test_a_cell_of_much_prose_does_not_pad_all_others():
    rows = [("w", "a reason " * 200), *((f"w{n}", "same name") for n in range(100))]
    assert len(report([NAME, WHY, COUNT], *((*row, "1") for row in rows)).text()) < 30_000


def test_a_narrow_terminal_leaves_out_spare_columns_and_names_them():
    shown = report([NAME, SPARE, COUNT], ("a.long.name.of.a.tensor", "1,000,000", "1"))
    assert "bytes" in table_lines(shown, 60)[0]
    header, _, *_, last = table_lines(shown, 30)
    assert header.split() == ["tensor", "count"]
    assert last == "  (too narrow to show 'bytes'; a pipe and --json have all)"


segments = st.text("abcxyz0123456789_", min_size=1, max_size=12)
names = st.lists(segments, min_size=1, max_size=6).map(".".join)
reasons = st.lists(names | st.just("(10, 2048)"), min_size=1, max_size=12).map(" ".join)
rows = st.lists(st.tuples(names, st.integers(0, 10**6).map(str), reasons), min_size=1, max_size=5)


@given(rows, st.integers(50, 120))
def test_every_line_fits_and_every_cell_is_whole(rows, width):
    """No piece of these names is wider than the narrowest column."""
    shown = report([NAME, COUNT, WHY], *rows)
    lines = table_lines(shown, width)
    assert max(map(len, lines)) <= width
    together = re.sub(r"\s", "", "".join(lines))
    assert sorted(together) == sorted(
        re.sub(r"\s", "", "tensorcountwhy" + "".join(map("".join, rows)))
    )


@given(rows)
def test_without_a_width_every_row_is_a_line(rows):
    header, *lines = table_lines(report([NAME, COUNT, WHY], *rows))
    assert header.split() == ["tensor", "count", "why"]
    assert [line.split() for line in lines] == [" ".join(row).split() for row in rows]
    assert all(len(name) < LONGEST_NAME for row in rows for name in row[0].split())


def test_colour_changes_no_character():
    shown = report([NAME, COUNT], ("fc.weight", "1"))
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown.text(80, colour=True)) == shown.text(80)
