"""Tables as text, Markdown and CSV: aligned, escaped, quoted, and nothing cut off."""

import csv
import io
import re
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.report import Column, Table, to_csv, to_markdown, to_text
from perstep.report.format import as_markdown, bar
from perstep.report.table import interval_columns, time_column, to_records

PARTS = [("embed", 1230.0, 0.05), ("attn.softmax", 12_340.0, 0.2), ("residual", 100.0, "")]
COLUMNS = [
    Column("part", itemgetter(0), name="part", words=True),
    time_column("", itemgetter(1), ("µs", 1e3), per="/step", name="ns_per_step"),
    Column("", itemgetter(2), bar, words=True),
]
TABLE = Table(
    title="decode: mini",
    columns=COLUMNS,
    records=PARTS,
    notes=["overhead 1.0 %"],
    rule_before=frozenset({2}),
)


def _words(*names: str) -> list[Column[list[str]]]:
    """Columns of words, by their place in a row."""
    return [Column(name, itemgetter(place), name=name, words=True) for place, name in enumerate(names)]


def test_text_is_aligned() -> None:
    """Words to the left, numbers to the right; the title above, notes below, no space at the ends."""
    assert to_text(TABLE).split("\n") == [
        "decode: mini",
        "part           µs/step",
        "─────────────────────────────",
        "embed             1.23   █",
        "attn.softmax      12.3   ████",
        "",
        "residual         0.100",
        "overhead 1.0 %",
        "",
    ]


def test_text_is_never_cut_off_or_interpreted() -> None:
    """Names of up to 10,000 characters and with any brackets are shown as they are."""
    names = ["m" * 3_000, "[bold]not bold[/bold]", ":smile:", "größer 模型"]
    text = to_text(Table("t", _words("run", "n"), [[name, "1"] for name in names]))
    for name in names:
        assert name in text
    assert "\x1b" not in text


def test_markdown_has_a_ruler_that_aligns() -> None:
    """Numbers to the right; notes are paragraphs."""
    assert to_markdown(TABLE).split("\n") == [
        "**decode: mini**",
        "",
        "| part | µs/step |  |",
        "| --- | ---: | --- |",
        "| embed | 1.23 | █ |",
        "| attn.softmax | 12.3 | ████ |",
        "| residual | 0.100 |  |",
        "",
        "overhead 1.0 %",
        "",
    ]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=4))
def test_a_markdown_row_has_its_cells_whatever_they_hold(cells: list[str]) -> None:
    """A bar inside a cell is escaped, a line end becomes a space."""
    markdown = to_markdown(Table("t", _words(*(f"c{index}" for index in range(len(cells)))), [cells]))
    row = markdown.split("\n")[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(cells) + 1
    assert row == "| " + " | ".join(as_markdown(cell.replace("\n", " ").replace("|", r"\|")) for cell in cells) + " |"


def test_csv_is_quoted_by_rfc_4180() -> None:
    """Commas, quotes and line ends are quoted, None is an empty field, lines end in a newline alone."""
    text = to_csv(_words("part", "ns", "note"), [['say "a, b"', 1.5, None], ["two\nlines", 2, "ü"]])
    assert text == 'part,ns,note\n"say ""a, b""",1.5,\n"two\nlines",2,ü\n'


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=2, max_size=2)))
def test_csv_is_read_back_as_it_was(rows: list[list[str]]) -> None:
    """By any reader of CSV; a carriage return alone is excepted, Python's writer does not quote it."""
    text = to_csv(_words("a", "b"), rows)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a", "b"], *rows]


def test_a_cell_is_rounded_and_a_file_is_not() -> None:
    """The header has the unit of the cells, the name that of the values; a bar without a name is in no file."""
    assert TABLE.header == ["part", "µs/step", ""]
    assert TABLE.rows[1][:2] == ["attn.softmax", "12.3"]
    assert to_csv(COLUMNS, PARTS) == "part,ns_per_step\nembed,1230.0\nattn.softmax,12340.0\nresidual,100.0\n"
    assert to_records(COLUMNS, PARTS)[0] == {"part": "embed", "ns_per_step": 1230.0}


def test_an_interval_is_one_column_of_a_table_and_two_of_a_file() -> None:
    """A dash where it is missing, nothing where there can be none."""
    columns = interval_columns(itemgetter(0), ("µs", 1e3))
    rows = [((1_000.0, 2_500.0),), ((None, None),), ("",)]
    table = Table("t", columns, rows)
    assert table.header == ["95 % interval (µs)"]
    assert table.rows == [["[1.00, 2.50]"], ["–"], [""]]
    assert to_csv(columns, rows) == "ci_low_ns,ci_high_ns\n1000.0,2500.0\n,\n,\n"


def test_an_optional_column_is_shown_where_a_row_has_a_value() -> None:
    """Files keep it; a 0 is a value."""
    columns = [Column("n", itemgetter(0), name="n"), Column("syncs", itemgetter(1), name="syncs", optional=True)]
    assert Table("t", columns, [(1, None), (2, "")]).header == ["n"]
    assert Table("t", columns, [(1, None), (2, 0)]).rows == [["1", "–"], ["2", "0"]]
    assert to_csv(columns, [(1, None)]) == "n,syncs\n1,\n"


def test_a_list_is_items_with_spaces_in_csv() -> None:
    """So that one field holds it."""
    assert to_csv([Column(None, itemgetter(0), name="blocks")], [([0, 2],)]) == "blocks\n0 2\n"


def test_a_long_cell_hides_no_other_row() -> None:
    """A damaged run may have a name of a million characters."""
    text = to_text(
        Table(
            "t",
            [Column("a", itemgetter(0), words=True), Column("b", itemgetter(1))],
            [("x" * 1_000_000, 1), ("other", 2)],
        )
    )
    assert len(text) < 100_000
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["1", "2"]


WIDE = [
    Column("part", itemgetter(0), words=True),
    Column("share", itemgetter(1), "{:.0%}".format),
    Column("", lambda row: row[1], bar, words=True, drop=1),
    *interval_columns(lambda _row: (1.0, 2.5), names=None),
    Column("bound", itemgetter(1), "{:.3f}".format, drop=2),
    Column("bound by", lambda _row: "bandwidth", words=True, drop=2),
]


@pytest.mark.parametrize(
    ("width", "header", "has_bar"),
    [
        (None, ["part", "share", "95 % interval", "bound", "bound by"], True),
        (90, ["part", "share", "95 % interval", "bound", "bound by"], True),
        (70, ["part", "share", "95 % interval", "bound", "bound by"], False),
        (45, ["part", "share", "95 % interval"], False),
    ],
)
def test_a_narrow_terminal_leaves_columns_out_in_their_order(
    width: int | None, header: list[str], has_bar: bool
) -> None:
    """First the bar, which nobody misses; then the others, which are named below."""
    lines = to_text(Table("t", WIDE, [("attn.softmax", 0.5), ("mlp", 1.0)], ["a note"]), width).split("\n")
    assert [words for words in re.split(" {2,}", lines[1]) if words] == header
    assert ("█" in "".join(lines)) is has_bar
    assert width is None or all(len(line) <= width for line in lines)
    assert ("Left out to fit 45 characters: bound, bound by." in " ".join(lines)) is (width == 45)


def test_a_table_that_is_still_too_wide_is_continued_below() -> None:
    """Each piece begins with the first column; an interval stays with its number, and words are broken last."""
    columns = [
        Column("engine", itemgetter(0), words=True),
        *(
            column
            for name in ("first", "second", "third")
            for column in (Column(name, itemgetter(1)), *interval_columns(lambda _row: (1.0, 2.5), names=None))
        ),
    ]
    lines = to_text(Table("t", columns, [("x" * 60, 17)]), 60).split("\n")
    assert all(len(line) <= 60 for line in lines)
    headers = [line.split("   ") for line in lines if line.startswith("engine")]
    assert [[word.strip() for word in words if word.strip()] for words in headers] == [
        ["engine", name, "95 % interval"] for name in ("first", "second", "third")
    ]
    assert "".join(line.split("   ")[0] for line in lines if line.startswith("x")).count("x") == 3 * 60


@given(st.integers(30, 200), st.lists(st.tuples(st.text("ab ", max_size=90), st.floats(0, 1)), max_size=4))
def test_no_cell_is_lost_at_any_width(width: int, rows: list[tuple[str, float]]) -> None:
    """Numbers are whole wherever they stand."""
    text = to_text(Table("t", [WIDE[0], *WIDE[:2], WIDE[4]], rows), width)
    assert all(text.count(f"{share:.0%}") >= 1 for _, share in rows)
    assert "…" not in text
